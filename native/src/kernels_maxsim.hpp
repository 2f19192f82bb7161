// MaxSim of late interaction (arXiv 2004.12832): the highest product of each query token with the
// tokens of a document. Query tokens are the panels of a product, so that a maximum over document
// tokens is one of vectors.
#pragma once

#include "kernels_gemm.hpp"

namespace opengte {

template <class Isa>
struct MaxSim {
  using F = typename Isa::F;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = 2 * lanes;

  // One document token as the product reads rows; bytes become unsigned by an offset of 128.
  template <class A, class T>
  OGTE_INLINE void convert(const T* from, int n, A* to) {
    if constexpr (std::is_same_v<T, std::uint16_t> && std::is_same_v<A, float>) {
      for (int i = 0; i < n; ++i) {
        const std::uint32_t bits = std::uint32_t{from[i]} << 16;
        __builtin_memcpy(to + i, &bits, sizeof bits);
      }
    } else if constexpr (std::is_same_v<A, std::uint8_t>) {
      for (int i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(from[i] ^ 0x80);
    } else {
      for (int i = 0; i < n; ++i) to[i] = static_cast<A>(from[i]);
    }
  }

  // Raises the best of a panel of query tokens to the scaled products of some document tokens.
  template <bool Whole>
  OGTE_INLINE void raise(const float* values, int rows, const float* scales, float* best) {
    F high[2] = {Isa::load(best), Isa::load(best + lanes)};
    for (int r = 0; r < rows; ++r) {
      const F scale = Isa::set(scales == nullptr ? 1.0f : scales[r]);
      unroll<2>([&](auto half) OGTE_LAMBDA {
        const float* at = values + r * panel + half * lanes;
        F x;
        if constexpr (Whole) x = Isa::from_int(reinterpret_cast<const std::int32_t*>(at));
        else x = Isa::load(at);
        high[half] = Isa::max(high[half], Isa::mul(x, scale));
      });
    }
    Isa::store(best, high[0]);
    Isa::store(best + lanes, high[1]);
  }

  template <class Format, class T>
  static void run(const MaxSimArgs& args) {
    using A = typename Format::A;
    constexpr bool bytes = std::is_same_v<T, std::int8_t>;
    const int width = args.steps * Format::group;
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(width) * sizeof(A);
    const auto* tokens = static_cast<const T*>(args.tokens);
    const auto* query = static_cast<const typename Format::B*>(args.query);
    auto* values = static_cast<float*>(args.scratch);
    auto* rows = reinterpret_cast<A*>(values + Isa::tile_rows * panel);
    __builtin_memset(rows, 0, static_cast<std::size_t>(Isa::tile_rows * stride));
    for (int first = 0; first < args.count; first += Isa::tile_rows) {
      const int n = least(Isa::tile_rows, args.count - first);
      for (int r = 0; r < n; ++r) {
        convert(tokens + static_cast<std::ptrdiff_t>(first + r) * args.dims, args.dims,
                rows + static_cast<std::ptrdiff_t>(r) * width);
      }
      const float* scales = args.scales == nullptr ? nullptr : args.scales + first;
      const auto multiply = Tile<Isa, Format>::of(n);
      for (int p = 0; p < args.panels; ++p) {
        const auto at = static_cast<std::ptrdiff_t>(p) * panel;
        multiply(reinterpret_cast<const char*>(rows), stride, query + at * width, args.steps,
                 values, panel);
        if constexpr (std::is_same_v<A, std::uint8_t>) {
          auto* whole = reinterpret_cast<std::int32_t*>(values);
          for (int r = 0; r < n; ++r) {
            for (int j = 0; j < panel; ++j) whole[r * panel + j] -= 128 * args.sums[at + j];
          }
        }
        raise<bytes>(values, n, scales, args.best + at);
      }
    }
  }
};

}  // namespace opengte
