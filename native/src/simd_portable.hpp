// Vectors of 4 floats in plain C++ with the compilers' vector types: runs on any processor.
#pragma once

#include <cstdint>

#include "kernels.hpp"
#include "kernels_packing.hpp"

namespace opengte {

struct Portable {
  static constexpr int lanes = 4;
  static constexpr int tile_rows = 4;
  static constexpr bool attention_bytes = false;
  typedef float F __attribute__((vector_size(16)));
  typedef std::int32_t I __attribute__((vector_size(16)));

  OGTE_INLINE F zero() { return F{}; }
  OGTE_INLINE F set(float x) { return F{x, x, x, x}; }
  OGTE_INLINE F load(const float* p) { return read<F>(p, lanes); }
  OGTE_INLINE F load(const float* p, int n) { return read<F>(p, n); }
  OGTE_INLINE void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  OGTE_INLINE void store(float* p, F x, int n) {
    __builtin_memcpy(p, &x, static_cast<std::size_t>(n) * 4);
  }
  OGTE_INLINE F add(F a, F b) { return a + b; }
  OGTE_INLINE F sub(F a, F b) { return a - b; }
  OGTE_INLINE F mul(F a, F b) { return a * b; }
  OGTE_INLINE F div(F a, F b) { return a / b; }
  OGTE_INLINE F fma(F a, F b, F c) { return a * b + c; }
  OGTE_INLINE F max(F a, F b) { return a > b ? a : b; }
  OGTE_INLINE F min(F a, F b) { return a < b ? a : b; }
  OGTE_INLINE F abs(F a) { return bits(ints(a) & 0x7FFFFFFF); }
  // exact for |a| < 2^22, which is all the elementary functions and quantisation need
  OGTE_INLINE F round(F a) {
    const F magic = set(12582912.0f);
    return (a + magic) - magic;
  }
  OGTE_INLINE F copysign(F magnitude, F sign) {
    const I bit = I{} + static_cast<std::int32_t>(0x80000000u);
    return bits((ints(magnitude) & ~bit) | (ints(sign) & bit));
  }
  OGTE_INLINE F scale2(F x, F n) {
    return x * bits((__builtin_convertvector(n, I) + 127) << 23);
  }
  OGTE_INLINE F head(F a, F b, int n) {
    const I index{0, 1, 2, 3};
    return index < n ? a : b;
  }
  OGTE_INLINE float sum(F a) { return (a[0] + a[1]) + (a[2] + a[3]); }
  OGTE_INLINE float highest(F a) {
    float x = a[0];
    for (int i = 1; i < lanes; ++i) x = a[i] > x ? a[i] : x;
    return x;
  }
  OGTE_INLINE float lowest(F a) {
    float x = a[0];
    for (int i = 1; i < lanes; ++i) x = a[i] < x ? a[i] : x;
    return x;
  }
  OGTE_INLINE F from_int(const std::int32_t* p) {
    return __builtin_convertvector(read<I>(p, lanes), F);
  }

  OGTE_INLINE F load_bf16(const std::uint16_t* p, int n = lanes) {
    I x{};
    for (int i = 0; i < n; ++i) x[i] = static_cast<std::int32_t>(std::uint32_t{p[i]} << 16);
    return bits(x);
  }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x, int n = lanes) {
    const I b = ints(x);
    for (int i = 0; i < n; ++i) {
      const std::uint32_t u = static_cast<std::uint32_t>(b[i]);
      p[i] = static_cast<std::uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
    }
  }
  OGTE_INLINE void store_s16(std::int16_t* p, F x, int n) {
    const F whole = round(x);
    for (int i = 0; i < n; ++i) p[i] = static_cast<std::int16_t>(whole[i]);
  }
  OGTE_INLINE void store_u8(std::uint8_t*, F, int) {}  // this set multiplies 16-bit operands

  template <int Group, class B>
  OGTE_INLINE void transpose(const B* x, std::ptrdiff_t stride, int n, int width, B* to) {
    Packing<Portable>::template transpose<Group>(x, stride, n, width, to);
  }
  template <int Group, class B>
  OGTE_INLINE void interleave(const B* x, std::ptrdiff_t stride, int row, int length, int n, B* to) {
    Packing<Portable>::template interleave<Group>(x, stride, row, length, n, to);
  }

 private:
  template <class V>
  OGTE_INLINE V read(const void* p, int n) {
    V x{};
    __builtin_memcpy(&x, p, static_cast<std::size_t>(n) * 4);
    return x;
  }
  OGTE_INLINE I ints(F x) { return reinterpret_cast<I>(x); }
  OGTE_INLINE F bits(I x) { return reinterpret_cast<F>(x); }

 public:
  struct Fp32 {
    static constexpr int group = 1;
    static constexpr OperandKind operand = OperandKind::f32;
    using A = float;
    using B = float;
    using Acc = F;
    using Value = F;
    OGTE_INLINE Acc zero() { return F{}; }
    OGTE_INLINE Value weights(const B* p) { return load(p); }
    OGTE_INLINE Value broadcast(const void* p) { return set(*static_cast<const float*>(p)); }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) { acc = acc + a * b; }
    OGTE_INLINE void store(void* tile, Acc acc) { __builtin_memcpy(tile, &acc, sizeof acc); }
  };

  struct Bf16 : Fp32 {
    using B = std::uint16_t;
    OGTE_INLINE Value weights(const B* p) { return load_bf16(p); }
  };

  struct Int8 {
    static constexpr int group = 1;
    static constexpr OperandKind operand = OperandKind::s16;
    using A = std::int16_t;
    using B = std::int8_t;
    using Acc = I;
    using Value = I;
    OGTE_INLINE Acc zero() { return I{}; }
    OGTE_INLINE Value weights(const B* p) { return I{p[0], p[1], p[2], p[3]}; }
    OGTE_INLINE Value broadcast(const void* p) {
      const std::int32_t x = *static_cast<const std::int16_t*>(p);
      return I{x, x, x, x};
    }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) { acc = acc + a * b; }
    OGTE_INLINE void store(void* tile, Acc acc) { __builtin_memcpy(tile, &acc, sizeof acc); }
  };
};

}  // namespace opengte
