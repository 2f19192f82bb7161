// Elementary functions on vectors, once for every instruction set.
#pragma once

#include "kernels_common.hpp"
#include "kernels.hpp"

namespace opengte {

template <class Isa>
struct Math {
  using F = typename Isa::F;

  template <int N>
  OGTE_INLINE F polynomial(F x, const float (&c)[N]) {
    F y = Isa::set(c[N - 1]);
    unroll<N - 1>([&](auto i) OGTE_LAMBDA { y = Isa::fma(y, x, Isa::set(c[N - 2 - i])); });
    return y;
  }

  // 2^x to 2e-9 of the value (minimax on half an octave), for x >= -126 after clamping.
  OGTE_INLINE F exp2(F x) {
    static constexpr float c[] = {1.0f,          0.693147206f,   0.240226469f,  0.0555032877f,
                                  0.00961848896f, 0.00133999346f, 0.000153458204f};
    x = Isa::max(x, Isa::set(-126.0f));
    const F n = Isa::round(x);
    return Isa::scale2(polynomial(Isa::sub(x, n), c), n);
  }

  // 2^x to 7e-5 of the value: enough before rounding to bfloat16. For finite x up to 127; scale2
  // must flush powers that are too small to zero.
  OGTE_INLINE F exp2_coarse(F x) {
    static constexpr float c[] = {0.999928072f, 0.693261032f, 0.242611167f, 0.0551713401f};
    const F n = Isa::round(x);
    return Isa::scale2(polynomial(Isa::sub(x, n), c), n);
  }

  // e^x; the argument is split in two parts so that large arguments keep their digits.
  OGTE_INLINE F exp(F x) {
    static constexpr float c[] = {1.0f,          0.693147206f,   0.240226469f,  0.0555032877f,
                                  0.00961848896f, 0.00133999346f, 0.000153458204f};
    x = Isa::min(Isa::max(x, Isa::set(-87.0f)), Isa::set(88.0f));
    const F n = Isa::round(Isa::mul(x, Isa::set(1.44269504f)));
    F r = Isa::fma(n, Isa::set(-0.693145752f), x);
    r = Isa::fma(n, Isa::set(-1.42860677e-6f), r);
    return Isa::scale2(polynomial(Isa::mul(r, Isa::set(1.44269504f)), c), n);
  }

  // erf to 1.5e-7 (Abramowitz and Stegun 7.1.26)
  OGTE_INLINE F erf(F x) {
    static constexpr float c[] = {0.0f, 0.254829592f, -0.284496736f, 1.421413741f, -1.453152027f,
                                  1.061405429f};
    const F z = Isa::abs(x);
    const F t = Isa::div(Isa::set(1.0f), Isa::fma(z, Isa::set(0.3275911f), Isa::set(1.0f)));
    const F tail = Isa::mul(polynomial(t, c), exp(Isa::mul(Isa::mul(z, z), Isa::set(-1.0f))));
    return Isa::copysign(Isa::sub(Isa::set(1.0f), tail), x);
  }

  OGTE_INLINE F gelu(F x) {
    const F half = Isa::mul(x, Isa::set(0.5f));
    return Isa::fma(half, erf(Isa::mul(x, Isa::set(0.707106781f))), half);
  }

  // GELU to 4e-5 on [-4, 4] and 4e-5 * |x| beyond: the normal distribution as one odd polynomial.
  OGTE_INLINE F gelu_coarse(F x) {
    static constexpr float c[] = {0.3986734f,     -0.06588782f,    0.009505388f,  -0.0010064875f,
                                  7.48546e-05f,   -3.6570957e-06f, 1.0419445e-07f, -1.301267e-09f};
    const F t = Isa::max(Isa::min(x, Isa::set(4.0f)), Isa::set(-4.0f));
    const F odd = Isa::mul(t, polynomial(Isa::mul(t, t), c));
    return Isa::fma(x, odd, Isa::mul(x, Isa::set(0.5f)));
  }

  OGTE_INLINE F sigmoid(F x) {
    const F one = Isa::set(1.0f);
    return Isa::div(one, Isa::add(one, exp(Isa::sub(Isa::zero(), x))));
  }

  OGTE_INLINE F tanh(F x) {
    const F s = sigmoid(Isa::add(x, x));
    return Isa::sub(Isa::add(s, s), Isa::set(1.0f));
  }

  // The tanh form of GELU, written with the identity 0.5 * (1 + tanh(y)) = sigmoid(2 y).
  OGTE_INLINE F gelu_tanh(F x) {
    const F cubic = Isa::fma(Isa::mul(Isa::mul(x, x), x), Isa::set(0.044715f), x);
    return Isa::mul(x, sigmoid(Isa::mul(cubic, Isa::set(1.59576912f))));
  }

  template <Activation K, bool Exact>
  OGTE_INLINE F apply(F x) {
    if constexpr (K == Activation::gelu) return Exact ? gelu(x) : gelu_coarse(x);
    if constexpr (K == Activation::gelu_tanh) return gelu_tanh(x);
    if constexpr (K == Activation::silu) return Isa::mul(x, sigmoid(x));
    if constexpr (K == Activation::relu) return Isa::max(x, Isa::zero());
    if constexpr (K == Activation::tanh) return tanh(x);
    return x;
  }
};

}  // namespace opengte
