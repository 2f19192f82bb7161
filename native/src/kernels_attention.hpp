// Attention of a tile of query rows over one sequence, streaming over blocks of keys with a running
// softmax: memory does not grow with the length, and nothing depends on other sequences.
#pragma once

#include "kernels_gemm.hpp"
#include "kernels_rows.hpp"

namespace opengte {

template <class Isa, class Format>
struct Attention {
  using T = Tile<Isa, Format>;
  using F = typename Isa::F;
  using M = Math<Isa>;
  using A = typename Format::A;
  using B = typename Format::B;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = T::panel;
  static constexpr int group = Format::group;
  static constexpr bool bf16 = Format::operand == OperandKind::bf16;
  static constexpr int block = 256;  // keys in one softmax step; a multiple of panel and group
  static constexpr int rows = Isa::tile_rows;

  static int steps(int head_dim) { return ceil_div(head_dim, group); }
  static int panels(int n) { return ceil_div(n, panel); }

  // Keys: panels of keys, groups of head dimensions. Values: panels of head dimensions, groups of
  // keys. Both are what Tile multiplies with.
  static std::size_t keys_elements(int length, int head_dim) {
    return static_cast<std::size_t>(panels(length)) * steps(head_dim) * T::block;
  }
  static std::size_t values_elements(int length, int head_dim) {
    return static_cast<std::size_t>(panels(head_dim)) * panels(length) * (panel / group) * T::block;
  }

  static std::size_t keys_bytes(int length, int head_dim) {
    return keys_elements(length, head_dim) * sizeof(B);
  }
  static std::size_t values_bytes(int length, int head_dim) {
    return values_elements(length, head_dim) * sizeof(B);
  }

  static void pack_keys(const void* from, std::ptrdiff_t stride, int length, int head_dim, void* at) {
    const int groups = steps(head_dim);
    const auto* k = static_cast<const B*>(from);
    auto* to = static_cast<B*>(at);
    for (int first = 0; first < length; first += panel) {
      const int n = least(panel, length - first);
      Isa::template transpose<group>(k + first * stride, stride, n, head_dim, to);
      to += static_cast<std::ptrdiff_t>(groups) * T::block;
    }
  }

  static void pack_values(const void* from, std::ptrdiff_t stride, int length, int head_dim, void* at) {
    const auto* v = static_cast<const B*>(from);
    auto* to = static_cast<B*>(at);
    const int groups = panels(length) * (panel / group);
    for (int first = 0; first < head_dim; first += panel) {
      const int n = least(panel, head_dim - first);
      for (int g = 0; g < groups; ++g) {
        Isa::template interleave<group>(v + first, stride, g * group, length, n, to);
        to += T::block;
      }
    }
  }

  static std::size_t scratch(int head_dim) {
    return static_cast<std::size_t>(rows) *
           (2 * block + panels(head_dim) * panel + panel + 3 * lanes);
  }

  struct State {
    float* scores;   // rows x block
    A* weights;      // rows x block
    float* sums;     // rows x padded head dimension: sum of weight * value
    float* tile;     // rows x panel
    float* highest;  // per row, in units of log2
    float* total;
    float* rescale;
  };

  // The keys that query row i attends to: [first, last).
  struct Span {
    int first, last;
  };
  OGTE_INLINE Span seen(const AttendArgs& args, int i) {
    Span s{0, args.length};
    if (args.causal) s.last = i + 1;
    if (args.window >= 0) {
      s.first = most(0, i - args.window);
      s.last = least(s.last, i + args.window + 1);
    }
    return s;
  }

  static void attend(const AttendArgs& args) {
    const int padded = panels(args.head_dim) * panel;
    State s;
    float* p = args.scratch;
    s.scores = p, p += rows * block;
    s.weights = reinterpret_cast<A*>(p), p += rows * block;
    s.sums = p, p += static_cast<std::ptrdiff_t>(rows) * padded;
    s.tile = p, p += rows * panel;
    s.highest = p, p += rows;
    s.total = p, p += rows;
    s.rescale = p;
    for (int first = args.first; first < args.last; first += rows) {
      attend_tile(args, s, first, least(rows, args.last - first), padded);
    }
  }

  static void attend_tile(const AttendArgs& args, State& s, int first, int n, int padded) {
    for (int r = 0; r < n; ++r) {
      s.highest[r] = -__builtin_huge_valf();
      s.total[r] = 0.0f;
    }
    const A* q = static_cast<const A*>(args.q) + (first - args.first) * args.q_stride;
    const int low = seen(args, first).first / block * block;
    const int high = seen(args, first + n - 1).last;
    for (int at = low; at < high; at += block) {
      const int keys = least(block, args.length - at);
      multiply_keys(args, s, q, n, at, keys);
      if (args.bias != nullptr) {
        for (int r = 0; r < n; ++r) add_bias(s.scores + r * block, args.bias + at - first - r, keys);
      }
      for (int r = 0; r < n; ++r) weigh_row(args, s, first + r, r, at, keys);
      multiply_values(args, s, n, at, keys, padded, at == low);
    }
    write(args, s, first, n, padded);
  }

  static void multiply_keys(const AttendArgs& args, State& s, const A* q, int n, int at, int keys) {
    const int groups = steps(args.head_dim);
    const B* k = static_cast<const B*>(args.keys) +
                 static_cast<std::ptrdiff_t>(at / panel) * groups * T::block;
    const auto multiply = T::of(n);
    for (int j = 0; j < keys; j += panel) {
      multiply(reinterpret_cast<const char*>(q), args.q_stride * sizeof(A), k, groups,
               s.scores + j, block);
      k += static_cast<std::ptrdiff_t>(groups) * T::block;
    }
  }

  // Reads up to a vector beyond the keys.
  OGTE_INLINE void add_bias(float* scores, const float* bias, int keys) {
    for (int j = 0; j < keys; j += lanes) {
      Isa::store(scores + j, Isa::add(Isa::load(scores + j), Isa::load(bias + j)));
    }
  }

  OGTE_INLINE F power(F x) { return bf16 ? M::exp2_coarse(x) : M::exp2(x); }

  OGTE_INLINE void put_weight(A* p, F x) {
    if constexpr (bf16) Isa::store_bf16(p, x);
    else Isa::store(p, x);
  }

  // Lanes [first, last) of x, and `other` outside.
  OGTE_INLINE F only(F x, F other, int first, int last) {
    if (last < lanes) x = Isa::head(x, other, last);
    return first > 0 ? Isa::head(other, x, first) : x;
  }

  OGTE_INLINE float highest(const float* scores, int low, int high) {
    const F never = Isa::set(-__builtin_huge_valf());
    F top = never;
    for (int j = low / lanes * lanes; j < high; j += lanes) {
      F x = Isa::load(scores + j);
      if (j < low || j + lanes > high) x = only(x, never, low - j, high - j);
      top = Isa::max(x, top);
    }
    return Isa::highest(top);
  }

  // Scores of one row and block -> softmax weights relative to the highest score so far; zero for
  // keys outside the window, and in the padding that multiply_values reads.
  static void weigh_row(const AttendArgs& args, State& s, int row, int r, int at, int keys) {
    const Span span = seen(args, row);
    const int low = most(span.first - at, 0), high = least(span.last - at, keys);
    const int end = ceil_div(keys, panel) * panel;
    float* scores = s.scores + r * block;
    A* weights = s.weights + r * block;
    if (low >= high) {
      for (int j = 0; j < end; j += lanes) put_weight(weights + j, Isa::zero());
      s.rescale[r] = 1.0f;
      return;
    }
    const float scale = args.scale * 1.44269504f;  // in powers of two from here on
    const float before = s.highest[r];
    const float block_top = highest(scores, low, high) * scale;
    const float now = block_top > before ? block_top : before;
    s.highest[r] = now;
    const F factor = Isa::set(scale), shift = Isa::set(-now);
    const int inner = low / lanes * lanes;
    F total = Isa::zero();
    for (int j = 0; j < inner; j += lanes) put_weight(weights + j, Isa::zero());
    const auto weigh = [&](int j) OGTE_LAMBDA {
      return power(Isa::fma(Isa::load(scores + j), factor, shift));
    };
    int j = inner;
    for (; j < high; j += lanes) {
      F w = weigh(j);
      if (j < low || j + lanes > high) w = only(w, Isa::zero(), low - j, high - j);
      total = Isa::add(total, w);
      put_weight(weights + j, w);
    }
    for (; j < end; j += lanes) put_weight(weights + j, Isa::zero());
    // before is -inf in the first block with keys for this row: 2^(-inf) is 0
    const float shrink = before > -3e38f ? power_of(before - now) : 0.0f;
    s.rescale[r] = shrink;
    s.total[r] = s.total[r] * shrink + Isa::sum(total);
  }

  OGTE_INLINE float power_of(float x) {
    alignas(64) float lane[lanes];
    Isa::store(lane, M::exp2(Isa::set(x)));
    return lane[0];
  }

  static void multiply_values(const AttendArgs& args, State& s, int n, int at, int keys, int padded,
                              bool fresh) {
    const auto multiply = T::of(n);
    const int all = panels(args.length) * (panel / group);
    const int groups = ceil_div(keys, group);
    const B* v = static_cast<const B*>(args.values) +
                 static_cast<std::ptrdiff_t>(at / group) * T::block;
    for (int c = 0; c < padded; c += panel) {
      multiply(reinterpret_cast<const char*>(s.weights), block * sizeof(A), v, groups, s.tile, panel);
      for (int r = 0; r < n; ++r) {
        for (int h = 0; h < panel; h += lanes) {
          float* sum = s.sums + static_cast<std::ptrdiff_t>(r) * padded + c + h;
          const F x = Isa::load(s.tile + r * panel + h);
          Isa::store(sum, fresh ? x : Isa::fma(Isa::load(sum), Isa::set(s.rescale[r]), x));
        }
      }
      v += static_cast<std::ptrdiff_t>(all) * T::block;
    }
  }

  static void write(const AttendArgs& args, State& s, int first, int n, int padded) {
    for (int r = 0; r < n; ++r) {
      const F inverse = Isa::set(1.0f / s.total[r]);
      A* out = static_cast<A*>(args.out) + (first - args.first + r) * args.out_stride;
      const float* sum = s.sums + static_cast<std::ptrdiff_t>(r) * padded;
      Rows<Isa>::vectors(args.head_dim, [&](int i, int k) OGTE_LAMBDA {
        const F x = Isa::mul(Isa::load(sum + i), inverse);
        if constexpr (bf16) Isa::store_bf16(out + i, x, k);
        else Isa::store(out + i, x, k);
      });
    }
  }
};

}  // namespace opengte
