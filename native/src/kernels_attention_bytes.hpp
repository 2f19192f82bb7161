// Attention in 8-bit products, for sets whose dot products take bytes: twice the rate of bfloat16.
//
// Queries, keys and values arrive as bfloat16 and are rounded to bytes, each in its own range:
//   keys     minus their mean over the sequence, which softmax ignores; one range per key
//   values   minus the middle of each column, which is added at the end; one range per column
//   queries  one range per row
//   weights  0..255, relative to the highest one in a row's block of keys; their total is the sum
//            of the rounded ones
#pragma once

#include "kernels_byte_states.hpp"

namespace opengte {

template <class Isa>
struct ByteAttention : ByteStates<Isa> {
  using States = ByteStates<Isa>;
  using Keys = typename States::Keys;
  using Values = typename States::Values;
  using Base = typename States::Base;
  using T = typename Base::T;
  using F = typename Isa::F;
  using Span = typename Base::Span;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = T::panel;
  static constexpr int group = T::group;
  static constexpr int vector_bytes = States::vector_bytes;
  static constexpr int block = 512;  // keys in one softmax step; a multiple of vector_bytes
  static constexpr int rows = Isa::tile_rows;
  static_assert(rows <= lanes, "what is kept for each row of a tile fits a vector");

  // In floats.
  static std::size_t scratch(int head_dim) {
    const std::size_t bytes = static_cast<std::size_t>(rows) * (block + States::padded(head_dim));
    const std::size_t floats = block + lanes + Base::panels(head_dim) * panel;
    return rows * floats + 9 * lanes + bytes / sizeof(float);
  }

  struct State {
    float* scores;  // rows x block
    float* tops;    // rows x lanes: of each lane's scores in a block
    float* sums;    // rows x padded head dimension: sum of weight * value
    // one float for each row:
    float* factor;   // of a score, in units of log2
    float* highest;  // so far, in units of log2
    float* total;    // of the weights
    float* top;      // a block's highest score
    float* scale;    // from a score to the exponent of its weight
    float* shift;
    float* weight;   // sum of a block's
    float* rescale;  // of what was summed before
    float* gain;     // of what a block adds
    std::uint8_t* weights;  // rows x block
    std::uint8_t* queries;  // rows x States::padded(head dimension)
  };

  static void attend(const AttendArgs& args) {
    const int width = Base::panels(args.head_dim) * panel;
    State s;
    float* p = args.scratch;
    s.scores = p, p += rows * block;
    s.tops = p, p += rows * lanes;
    s.sums = p, p += static_cast<std::ptrdiff_t>(rows) * width;
    for (float** each : {&s.factor, &s.highest, &s.total, &s.top, &s.scale, &s.shift, &s.weight,
                         &s.rescale, &s.gain}) {
      *each = p, p += lanes;
    }
    s.weights = reinterpret_cast<std::uint8_t*>(p);
    s.queries = s.weights + rows * block;
    const Keys keys(const_cast<void*>(args.keys), args.length, args.head_dim);
    const Values values(const_cast<void*>(args.values), args.length, args.head_dim);
    for (int first = args.first; first < args.last; first += rows) {
      attend_tile(args, keys, values, s, first, least(rows, args.last - first), width);
    }
  }

  static void attend_tile(const AttendArgs& args, const Keys& keys, const Values& values, State& s,
                          int first, int n, int width) {
    Isa::store(s.highest, Isa::set(-__builtin_huge_valf()));
    Isa::store(s.total, Isa::zero());
    for (int r = 0; r < n; ++r) round_query(args, s, first, r);
    const int low = Base::seen(args, first).first / block * block;
    const int high = Base::seen(args, first + n - 1).last;
    for (int at = low; at < high; at += block) {
      const int count = least(block, args.length - at);
      multiply_keys(args, keys, s, n, at, count);
      weigh(args, s, first, n, at, count);
      multiply_values(args, values, s, n, at, count, width, at == low);
    }
    write(args, values, s, first, n, width);
  }

  // A query as signed bytes plus 128, for which the offsets of the keys compensate.
  static void round_query(const AttendArgs& args, State& s, int first, int r) {
    const auto* q =
        static_cast<const std::uint16_t*>(args.q) + (first - args.first + r) * args.q_stride;
    const int n = args.head_dim;
    const auto value = [&](int i, int k) OGTE_LAMBDA { return States::load(q + i, k); };
    const float top = States::magnitude(n, value);
    const F factor = Isa::set(top > 0.0f ? 127.0f / top : 0.0f), middle = Isa::set(128.0f);
    std::uint8_t* to = s.queries + r * States::padded(n);
    Rows<Isa>::vectors(n, [&](int i, int k) OGTE_LAMBDA {
      Isa::store_u8(to + i, Isa::fma(value(i, k), factor, middle), k);
    });
    s.factor[r] = top * (1.0f / 127.0f) * args.scale * 1.44269504f;
  }

  // Scores of a tile of rows and one panel of keys, and the highest of each lane so far.
  template <int Rows>
  static void score(const State& s, int query_stride, const std::int8_t* k, int groups, int column,
                    const float* scale, const float* offset) {
    const auto* q = reinterpret_cast<const char*>(s.queries);
    T::template product<Rows>(q, query_stride, k, groups, [&](auto& acc) OGTE_LAMBDA {
      unroll<Rows>([&](auto r) OGTE_LAMBDA {
        float* out = s.scores + r * block + column;
        const F x = Isa::fma(Isa::to_float(acc[r][0]), Isa::load(scale), Isa::load(offset));
        const F y = Isa::fma(Isa::to_float(acc[r][1]), Isa::load(scale + lanes),
                             Isa::load(offset + lanes));
        Isa::store(out, x);
        Isa::store(out + lanes, y);
        float* top = s.tops + r * lanes;
        Isa::store(top, Isa::max(Isa::load(top), Isa::max(x, y)));
      });
    });
  }

  // Adds the product of a block's weights and one panel of values to the sums.
  template <int Rows>
  static void gather(const State& s, const std::int8_t* v, int groups, float* sums, int width,
                     bool fresh) {
    const auto* w = reinterpret_cast<const char*>(s.weights);
    T::template product<Rows>(w, block, v, groups, [&](auto& acc) OGTE_LAMBDA {
      unroll<Rows>([&](auto r) OGTE_LAMBDA {
        const F gain = Isa::set(s.gain[r]), rescale = Isa::set(s.rescale[r]);
        unroll<2>([&](auto h) OGTE_LAMBDA {
          float* sum = sums + static_cast<std::ptrdiff_t>(r) * width + h * lanes;
          const F x = Isa::mul(Isa::to_float(acc[r][h]), gain);
          Isa::store(sum, fresh ? x : Isa::fma(Isa::load(sum), rescale, x));
        });
      });
    });
  }

  using Score = decltype(&score<1>);
  using Gather = decltype(&gather<1>);
  template <int... R>
  static Score score_of(int n, std::integer_sequence<int, R...>) {
    static constexpr Score table[] = {&score<R + 1>...};
    return table[n - 1];
  }
  template <int... R>
  static Gather gather_of(int n, std::integer_sequence<int, R...>) {
    static constexpr Gather table[] = {&gather<R + 1>...};
    return table[n - 1];
  }
  using AllRows = std::make_integer_sequence<int, Isa::tile_rows>;

  static void multiply_keys(const AttendArgs& args, const Keys& keys, State& s, int n, int at,
                            int count) {
    const F never = Isa::set(-__builtin_huge_valf());
    for (int r = 0; r < n; ++r) Isa::store(s.tops + r * lanes, never);
    const int groups = Base::steps(args.head_dim);
    const std::int8_t* k = keys.packed + static_cast<std::ptrdiff_t>(at / panel) * groups * T::block;
    const Score compute = score_of(n, AllRows{});
    int j = 0;
    for (; j < count; j += panel) {
      compute(s, States::padded(args.head_dim), k, groups, j, keys.scale + at + j, keys.offset + at + j);
      k += static_cast<std::ptrdiff_t>(groups) * T::block;
    }
    for (; j < ceil_div(count, vector_bytes) * vector_bytes; j += lanes) {
      for (int r = 0; r < n; ++r) Isa::store(s.scores + r * block + j, never);
    }
  }

  // The highest score of the keys that the row attends to; the other scores become -inf.
  OGTE_INLINE float restrict_row(float* scores, int low, int high, int end) {
    const F never = Isa::set(-__builtin_huge_valf());
    F top = never;
    for (int j = 0; j < end; j += lanes) {
      F x = Isa::load(scores + j);
      if (j < low || j + lanes > high) {
        x = Base::only(x, never, States::lane(low - j), States::lane(high - j));
        Isa::store(scores + j, x);
      }
      top = Isa::max(top, x);
    }
    return Isa::highest(top);
  }

  // Scores of a tile and block -> softmax weights, 255 for the highest one in each row; zero for
  // keys outside the window, and in the padding that is multiplied with values.
  static void weigh(const AttendArgs& args, State& s, int first, int n, int at, int count) {
    const int end = ceil_div(count, vector_bytes) * vector_bytes;
    for (int r = 0; r < n; ++r) {
      const Span span = Base::seen(args, first + r);
      const int low = most(span.first - at, 0), high = least(span.last - at, count);
      // after the last key of the sequence, scores are already -inf
      s.top[r] = low == 0 && high == count ? Isa::highest(Isa::load(s.tops + r * lanes))
                                           : restrict_row(s.scores + r * block, low, high, end);
    }
    const F top = Isa::load(s.top), factor = Isa::load(s.factor), before = Isa::load(s.highest);
    const F scaled = Isa::mul(top, factor), now = Isa::max(scaled, before);
    Isa::store(s.highest, now);
    Isa::store(s.rescale, Math<Isa>::exp2(Isa::sub(before, now)));
    // a value that is not finite stays so
    Isa::store(s.gain, Isa::fma(scaled, Isa::zero(), Math<Isa>::exp2(Isa::sub(scaled, now))));
    // in 256 parts of an octave; the highest weight is 255 = 256 * 2^(-1.45 / 256)
    Isa::store(s.scale, Isa::mul(factor, Isa::set(256.0f)));
    Isa::store(s.shift, Isa::fma(scaled, Isa::set(-256.0f), Isa::set(-1.4455f)));
    for (int r = 0; r < n; ++r) weigh_row(s, r, end);
    const F total = Isa::mul(Isa::load(s.total), Isa::load(s.rescale));
    Isa::store(s.total, Isa::fma(Isa::load(s.gain), Isa::load(s.weight), total));
  }

  static void weigh_row(State& s, int r, int end) {
    const float* scores = s.scores + r * block;
    std::uint8_t* weights = s.weights + r * block;
    if (s.top[r] == -__builtin_huge_valf()) {  // the row attends to no key of this block
      __builtin_memset(weights, 0, end);
      s.rescale[r] = 1.0f;
      s.gain[r] = s.weight[r] = 0.0f;
      return;
    }
    const F scale = Isa::set(s.scale[r]), shift = Isa::set(s.shift[r]);
    typename Isa::Int8::Acc total = Isa::Int8::zero();
    const auto power = [&](int j) OGTE_LAMBDA {
      return Isa::fma(Isa::load(scores + j), scale, shift);
    };
    for (int j = 0; j < end; j += vector_bytes) {
      Isa::store_powers_u8(weights + j, power(j), power(j + lanes), power(j + 2 * lanes),
                           power(j + 3 * lanes), total);
    }
    s.weight[r] = static_cast<float>(Isa::sum(total));
  }

  static void multiply_values(const AttendArgs& args, const Values& values, State& s, int n, int at,
                              int count, int width, bool fresh) {
    const int all = Base::panels(args.length) * (panel / group);
    const std::int8_t* v = values.packed + static_cast<std::ptrdiff_t>(at / group) * T::block;
    const Gather compute = gather_of(n, AllRows{});
    for (int c = 0; c < width; c += panel) {
      compute(s, v, ceil_div(count, group), s.sums + c, width, fresh);
      v += static_cast<std::ptrdiff_t>(all) * T::block;
    }
  }

  static void write(const AttendArgs& args, const Values& values, State& s, int first, int n,
                    int width) {
    for (int r = 0; r < n; ++r) {
      const F inverse = Isa::set(1.0f / s.total[r]);
      auto* out = static_cast<std::uint16_t*>(args.out) + (first - args.first + r) * args.out_stride;
      const float* sum = s.sums + static_cast<std::ptrdiff_t>(r) * width;
      Rows<Isa>::vectors(args.head_dim, [&](int i, int k) OGTE_LAMBDA {
        const F x = Isa::mul(Isa::load(sum + i), inverse);
        Isa::store_bf16(out + i,
                        Isa::fma(x, Isa::load(values.scale + i), Isa::load(values.middle + i)), k);
      });
    }
  }
};

}  // namespace opengte
