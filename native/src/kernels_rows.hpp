// Operations on one row of activations: norms, quantisation, rotation.
#pragma once

#include "kernels_math.hpp"

namespace opengte {

template <class Isa>
struct Rows {
  using F = typename Isa::F;
  static constexpr int lanes = Isa::lanes;

  // Calls f(offset, count) for every vector of a row; only the last may be short.
  template <class Each>
  OGTE_INLINE void vectors(int n, Each&& f) {
    int i = 0;
    for (; i + lanes <= n; i += lanes) f(i, lanes);
    if (i < n) f(i, n - i);
  }

  OGTE_INLINE F load(const float* p, int n) { return n == lanes ? Isa::load(p) : Isa::load(p, n); }
  OGTE_INLINE void store(float* p, F x, int n) {
    if (n == lanes) Isa::store(p, x);
    else Isa::store(p, x, n);
  }

  static void norm(const float* x, float* y, const NormArgs& args) {
    const int n = args.width;
    const float count = 1.0f / static_cast<float>(n);
    float mean = 0.0f;
    if (!args.rms) {
      F total = Isa::zero();
      vectors(n, [&](int i, int k) OGTE_LAMBDA { total = Isa::add(total, load(x + i, k)); });
      mean = Isa::sum(total) * count;
    }
    const F centre = Isa::set(mean);
    F squares = Isa::zero();
    vectors(n, [&](int i, int k) OGTE_LAMBDA {
      F d = Isa::sub(load(x + i, k), centre);
      if (k < lanes) d = Isa::head(d, Isa::zero(), k);
      squares = Isa::fma(d, d, squares);
    });
    const float variance = Isa::sum(squares) * count + args.eps;
    const F inverse = Isa::set(1.0f / __builtin_sqrtf(variance));
    vectors(n, [&](int i, int k) OGTE_LAMBDA {
      const F d = Isa::mul(Isa::sub(load(x + i, k), centre), inverse);
      const F w = load(args.weight + i, k);
      store(y + i, args.bias ? Isa::fma(d, w, load(args.bias + i, k)) : Isa::mul(d, w), k);
    });
  }

  static void add(float* x, const float* y, int n) {
    vectors(n, [&](int i, int k) OGTE_LAMBDA {
      store(x + i, Isa::add(load(x + i, k), load(y + i, k)), k);
    });
  }

  static void scale(float* x, float factor, int n) {
    const F f = Isa::set(factor);
    vectors(n, [&](int i, int k) OGTE_LAMBDA { store(x + i, Isa::mul(load(x + i, k), f), k); });
  }

  template <Activation K>
  static void map(float* x, int n) {
    vectors(n, [&](int i, int k) OGTE_LAMBDA {
      store(x + i, Math<Isa>::template apply<K, true>(load(x + i, k)), k);
    });
  }
  static void activate(float* x, int n, Activation a) {
    switch (a) {
      case Activation::gelu: return map<Activation::gelu>(x, n);
      case Activation::gelu_tanh: return map<Activation::gelu_tanh>(x, n);
      case Activation::silu: return map<Activation::silu>(x, n);
      case Activation::relu: return map<Activation::relu>(x, n);
      case Activation::tanh: return map<Activation::tanh>(x, n);
      case Activation::identity: return;
    }
  }

  // x ~ q * scale + low with q in 0..255: each row has its own range.
  template <class Load>
  OGTE_INLINE void quantise_row(const QuantiseArgs& args, Load&& value) {
    const int n = args.linear->inputs;
    F lowest = Isa::set(__builtin_huge_valf()), highest = Isa::set(-__builtin_huge_valf());
    vectors(n, [&](int i, int k) OGTE_LAMBDA {
      const F v = value(i, k);
      lowest = k < lanes ? Isa::head(Isa::min(v, lowest), lowest, k) : Isa::min(v, lowest);
      highest = k < lanes ? Isa::head(Isa::max(v, highest), highest, k) : Isa::max(v, highest);
    });
    const float first = Isa::lowest(lowest), range = Isa::highest(highest) - first;
    *args.low = first;
    *args.scale = range * (1.0f / 255.0f);
    const F factor = Isa::set(range > 0.0f ? 255.0f / range : 0.0f);
    const F offset = Isa::set(first), top = Isa::set(255.0f);
    vectors(n, [&](int i, int k) OGTE_LAMBDA {
      F v = Isa::mul(Isa::sub(value(i, k), offset), factor);
      v = Isa::min(Isa::max(v, Isa::zero()), top);
      if (args.kind == OperandKind::u8) Isa::store_u8(static_cast<std::uint8_t*>(args.q) + i, v, k);
      else Isa::store_s16(static_cast<std::int16_t*>(args.q) + i, v, k);
    });
  }

  template <class Load>
  OGTE_INLINE void quantise_smoothed(const QuantiseArgs& args, Load&& value) {
    const float* centre = args.linear->centre;
    const float* factor = args.linear->factor;
    if (factor == nullptr) return quantise_row(args, value);
    quantise_row(args, [&](int i, int k) OGTE_LAMBDA {
      return Isa::mul(Isa::sub(value(i, k), load(centre + i, k)), load(factor + i, k));
    });
  }

  static void quantise(const QuantiseArgs& args) {
    if (args.bf16) {
      const auto* x = static_cast<const std::uint16_t*>(args.x);
      quantise_smoothed(args, [&](int i, int k) OGTE_LAMBDA {
        return k == lanes ? Isa::load_bf16(x + i) : Isa::load_bf16(x + i, k);
      });
    } else {
      const auto* x = static_cast<const float*>(args.x);
      quantise_smoothed(args, [&](int i, int k) OGTE_LAMBDA { return load(x + i, k); });
    }
  }

  static void to_bf16(const float* x, int n, std::uint16_t* y) {
    vectors(n, [&](int i, int k) OGTE_LAMBDA { Isa::store_bf16(y + i, load(x + i, k), k); });
  }

  static void from_bf16(const std::uint16_t* x, int n, float* y) {
    vectors(n, [&](int i, int k) OGTE_LAMBDA { store(y + i, Isa::load_bf16(x + i, k), k); });
  }

  // Rotary embedding of one head in the half-split layout.
  static void rotate(float* x, const float* cosine, const float* sine, int half) {
    vectors(half, [&](int i, int k) OGTE_LAMBDA {
      const F a = load(x + i, k), b = load(x + half + i, k);
      const F c = load(cosine + i, k), s = load(sine + i, k);
      store(x + i, Isa::sub(Isa::mul(a, c), Isa::mul(b, s)), k);
      store(x + half + i, Isa::fma(b, c, Isa::mul(a, s)), k);
    });
  }
};

}  // namespace opengte
