// Matrix products over packed weights, once for every instruction set and precision.
//
// A tile of up to Isa::tile_rows rows by one panel (two vectors) of outputs stays in registers over
// all inputs. Every element is one chain of the same instruction in the same order, whatever the
// tile's height: results do not depend on how rows are grouped.
#pragma once

#include "kernels_math.hpp"

namespace opengte {

// Uses one pointer for three rows, so that no row address is spilled.
template <class Isa, class Format>
struct Tile {
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = 2 * lanes;
  static constexpr int group = Format::group;
  static constexpr int block = panel * group;  // weights of one step
  static constexpr int a_step = group * static_cast<int>(sizeof(typename Format::A));
  using B = typename Format::B;

  using Function = void (*)(const char* a, std::ptrdiff_t stride, const B* b, int steps, float* out,
                            std::ptrdiff_t out_stride);

  // Calls finish with the sums of Rows x 2 vectors.
  template <int Rows, class Finish>
  OGTE_INLINE void product(const char* a, std::ptrdiff_t stride, const B* b, int steps,
                           Finish&& finish) {
    constexpr int pointers = (Rows + 2) / 3;
    typename Format::Acc acc[Rows][2];
    const char* row[pointers];
    unroll<Rows>([&](auto r) OGTE_LAMBDA {
      acc[r][0] = Format::zero();
      acc[r][1] = Format::zero();
    });
    unroll<pointers>([&](auto p) OGTE_LAMBDA { row[p] = a + 3 * p * stride; });

    const auto step = [&](auto s) OGTE_LAMBDA {
      const auto b0 = Format::weights(b + s * block);
      const auto b1 = Format::weights(b + s * block + lanes * group);
      unroll<Rows>([&](auto r) OGTE_LAMBDA {
        const auto x = Format::broadcast(row[r / 3] + (r % 3) * stride + s * a_step);
        Format::dot(acc[r][0], x, b0);
        Format::dot(acc[r][1], x, b1);
      });
    };
    const auto advance = [&](int n) OGTE_LAMBDA {
      b += n * block;
      unroll<pointers>([&](auto p) OGTE_LAMBDA { row[p] += n * a_step; });
    };
    for (; steps >= 4; steps -= 4) {
      unroll<4>(step);
      advance(4);
    }
    for (; steps > 0; --steps) {
      step(std::integral_constant<int, 0>{});
      advance(1);
    }
    finish(acc);
  }

  template <int Rows>
  static void multiply(const char* a, std::ptrdiff_t stride, const B* b, int steps, float* out,
                       std::ptrdiff_t out_stride) {
    product<Rows>(a, stride, b, steps, [&](auto& acc) OGTE_LAMBDA {
      unroll<Rows>([&](auto r) OGTE_LAMBDA {
        Format::store(out + r * out_stride, acc[r][0]);
        Format::store(out + r * out_stride + lanes, acc[r][1]);
      });
    });
  }

  template <int... R>
  static Function choose(int rows, std::integer_sequence<int, R...>) {
    static constexpr Function table[] = {&multiply<R + 1>...};
    return table[rows - 1];
  }
  static Function of(int rows) {
    return choose(rows, std::make_integer_sequence<int, Isa::tile_rows>{});
  }
};

// What turns the sums of a finished tile into outputs.
struct TileResult {
  const float* values;  // floats, or 32-bit integers of a quantised product
  int rows, first_row, panel;
  const Linear* linear;
  const float* row_scale;
  const float* row_low;
  const Epilogue* then;
};

template <class Isa>
struct Finish {
  using F = typename Isa::F;
  using M = Math<Isa>;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = 2 * lanes;
  using Function = void (*)(const TileResult&);

  template <bool Quantised>
  OGTE_INLINE F value(const TileResult& t, int row, int half) {
    const float* p = t.values + row * panel + half * lanes;
    const std::ptrdiff_t column = static_cast<std::ptrdiff_t>(t.panel) * panel + half * lanes;
    const F bias = Isa::load(t.linear->bias + column);
    if constexpr (!Quantised) return Isa::add(Isa::load(p), bias);
    const F product = Isa::mul(Isa::from_int(reinterpret_cast<const std::int32_t*>(p)),
                               Isa::load(t.linear->scale + column));
    const F shifted =
        Isa::fma(Isa::set(t.row_low[row]), Isa::load(t.linear->sum + column), bias);
    return Isa::fma(Isa::set(t.row_scale[row]), product, shifted);
  }

  template <bool Bf16>
  OGTE_INLINE void put(const TileResult& t, int row, int column, F x, int n) {
    const std::ptrdiff_t at = (t.first_row + row) * t.then->stride + column;
    if constexpr (Bf16) {
      Isa::store_bf16(static_cast<std::uint16_t*>(t.then->out) + at, x, n);
    } else {
      Isa::store(static_cast<float*>(t.then->out) + at, x, n);
    }
  }

  template <bool Quantised, bool Bf16, bool Exact, Activation K>
  static void map(const TileResult& t) {
    const int column = t.panel * panel;
    const int n0 = least(lanes, t.linear->outputs - column);
    const int n1 = least(lanes, t.linear->outputs - column - lanes);
    for (int r = 0; r < t.rows; ++r) {
      put<Bf16>(t, r, column, M::template apply<K, Exact>(value<Quantised>(t, r, 0)), n0);
      if (n1 > 0) {
        put<Bf16>(t, r, column + lanes, M::template apply<K, Exact>(value<Quantised>(t, r, 1)), n1);
      }
    }
  }

  template <bool Quantised, bool Bf16, bool Exact, Activation K>
  static void gate(const TileResult& t) {
    const int column = t.panel * lanes;
    const int n = least(lanes, t.linear->outputs - column);
    for (int r = 0; r < t.rows; ++r) {
      const F g = M::template apply<K, Exact>(value<Quantised>(t, r, 0));
      put<Bf16>(t, r, column, Isa::mul(g, value<Quantised>(t, r, 1)), n);
    }
  }

  template <bool Quantised>
  static void residual(const TileResult& t) {
    const int column = t.panel * panel;
    for (int r = 0; r < t.rows; ++r) {
      float* out = static_cast<float*>(t.then->out) + (t.first_row + r) * t.then->stride + column;
      for (int half = 0; half < 2; ++half) {
        const int n = least(lanes, t.linear->outputs - column - half * lanes);
        if (n <= 0) break;
        float* p = out + half * lanes;
        Isa::store(p, Isa::add(Isa::load(p, n), value<Quantised>(t, r, half)), n);
      }
    }
  }

  template <bool Quantised, bool Bf16, bool Exact>
  static Function activated(Activation a, bool gated) {
    using A = Activation;
    switch (a) {
      case A::gelu: return gated ? &gate<Quantised, Bf16, Exact, A::gelu>
                                 : &map<Quantised, Bf16, Exact, A::gelu>;
      case A::gelu_tanh: return gated ? &gate<Quantised, Bf16, true, A::gelu_tanh>
                                      : &map<Quantised, Bf16, true, A::gelu_tanh>;
      case A::silu: return gated ? &gate<Quantised, Bf16, true, A::silu>
                                 : &map<Quantised, Bf16, true, A::silu>;
      case A::relu: return gated ? &gate<Quantised, Bf16, true, A::relu>
                                 : &map<Quantised, Bf16, true, A::relu>;
      case A::tanh: return gated ? &gate<Quantised, Bf16, true, A::tanh>
                                 : &map<Quantised, Bf16, true, A::tanh>;
      case A::identity: break;
    }
    return gated ? &gate<Quantised, Bf16, true, A::identity>
                 : &map<Quantised, Bf16, true, A::identity>;
  }

  template <bool Quantised, bool Bf16>
  static Function of(const Epilogue& e) {
    if (e.kind == Epilogue::residual) return &residual<Quantised>;
    if (e.kind == Epilogue::store) return &map<Quantised, Bf16, true, Activation::identity>;
    const bool gated = e.kind == Epilogue::gate;
    return e.exact ? activated<Quantised, Bf16, true>(e.activation, gated)
                   : activated<Quantised, Bf16, false>(e.activation, gated);
  }

  template <bool Quantised>
  static Function of(const Epilogue& e) {
    return e.to_bf16 ? of<Quantised, true>(e) : of<Quantised, false>(e);
  }
};

// Prefetches the residual that a tile will be added to, so that it is in cache after the product.
OGTE_INLINE void fetch_ahead(const Epilogue& then, int row, int rows, int column) {
  const float* p = static_cast<const float*>(then.out) + row * then.stride + column;
  for (int r = 0; r < rows; ++r) {
    __builtin_prefetch(p + r * then.stride, 1);
    __builtin_prefetch(p + r * then.stride + 16, 1);
  }
}

template <class Isa, class Format>
void gemm(const GemmArgs& args) {
  using T = Tile<Isa, Format>;
  constexpr bool quantised =
      Format::operand == OperandKind::u8 || Format::operand == OperandKind::s16;
  if (args.rows <= 0) return;
  const Linear& linear = *args.linear;
  const auto finish = Finish<Isa>::template of<quantised>(args.then);
  const std::size_t panel_bytes =
      static_cast<std::size_t>(linear.steps) * T::block * sizeof(typename T::B);

  // rows are spread evenly over the tiles, so that no tile is nearly empty
  const int tiles = ceil_div(args.rows, Isa::tile_rows);
  const int height = args.rows / tiles, taller = args.rows % tiles;
  const auto multiply = T::of(height);
  const auto multiply_taller = taller ? T::of(height + 1) : multiply;

  alignas(64) float values[Isa::tile_rows * T::panel];
  for (int panel = args.first_panel; panel < args.last_panel; ++panel) {
    const auto* b = reinterpret_cast<const typename T::B*>(linear.weights + panel * panel_bytes);
    int row = 0;
    for (int i = 0; i < tiles; ++i) {
      const int rows = height + (i < taller);
      const char* a = static_cast<const char*>(args.a.data) + row * args.a.stride;
      if (args.then.kind == Epilogue::residual) fetch_ahead(args.then, row, rows, panel * T::panel);
      (i < taller ? multiply_taller : multiply)(a, args.a.stride, b, linear.steps, values,
                                                  T::panel);
      finish({values, rows, row, panel, &linear, args.a.scale + row, args.a.low + row, &args.then});
      row += rows;
    }
  }
}

}  // namespace opengte
