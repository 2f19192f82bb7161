// AVX-512 with VNNI and BF16: vectors of 16 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels.hpp"
#include "kernels_packing.hpp"

namespace opengte {

struct Avx512 {
  static constexpr int lanes = 16;
  static constexpr int tile_rows = 12;
  using F = __m512;

  OGTE_INLINE __mmask16 mask(int n) { return static_cast<__mmask16>(_bzhi_u32(0xFFFF, n)); }
  OGTE_INLINE F zero() { return _mm512_setzero_ps(); }
  OGTE_INLINE F set(float x) { return _mm512_set1_ps(x); }
  OGTE_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  OGTE_INLINE F load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  OGTE_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  OGTE_INLINE void store(float* p, F x, int n) { _mm512_mask_storeu_ps(p, mask(n), x); }
  OGTE_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  OGTE_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  OGTE_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  OGTE_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  OGTE_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  OGTE_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  OGTE_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  OGTE_INLINE F abs(F a) { return _mm512_abs_ps(a); }
  OGTE_INLINE F round(F a) { return _mm512_roundscale_ps(a, 8); }
  OGTE_INLINE F copysign(F magnitude, F sign) {
    const __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
        bit, _mm512_castps_si512(sign), _mm512_castps_si512(magnitude), 0xCA));
  }
  // x * 2^n for whole n
  OGTE_INLINE F scale2(F x, F n) { return _mm512_scalef_ps(x, n); }
  // keeps the first n lanes of a, takes b in the others
  OGTE_INLINE F head(F a, F b, int n) { return _mm512_mask_blend_ps(mask(n), b, a); }
  OGTE_INLINE float sum(F a) { return _mm512_reduce_add_ps(a); }
  OGTE_INLINE float highest(F a) { return _mm512_reduce_max_ps(a); }
  OGTE_INLINE float lowest(F a) { return _mm512_reduce_min_ps(a); }
  OGTE_INLINE F from_int(const std::int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

  OGTE_INLINE F load_bf16(const std::uint16_t* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  OGTE_INLINE F load_bf16(const std::uint16_t* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
  }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, mask(n), narrow(x));
  }
  // round(x) of values known to lie in 0..255
  OGTE_INLINE void store_u8(std::uint8_t* p, F x, int n) {
    _mm_mask_storeu_epi8(p, mask(n), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x)));
  }
  OGTE_INLINE void store_s16(std::int16_t* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, mask(n), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
  }

 private:
  OGTE_INLINE F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  OGTE_INLINE __m256i narrow(F x) { return (__m256i)_mm512_cvtneps_pbh(x); }

 public:
  template <int Group, class B>
  OGTE_INLINE void transpose(const B* x, std::ptrdiff_t stride, int n, int width, B* to) {
    Packing<Avx512>::template transpose<Group>(x, stride, n, width, to);
  }
  template <int Group, class B>
  OGTE_INLINE void interleave(const B* x, std::ptrdiff_t stride, int row, int length, int n, B* to) {
    Packing<Avx512>::template interleave<Group>(x, stride, row, length, n, to);
  }

  // The dot products are single instructions in inline assembly: compilers that treat the
  // accumulator of the intrinsic as a fresh value copy it to and from the stack.
  struct Fp32 {
    static constexpr int group = 1;
    static constexpr OperandKind operand = OperandKind::f32;
    using A = float;
    using B = float;
    using Acc = __m512;
    using Value = __m512;
    OGTE_INLINE Acc zero() { return _mm512_setzero_ps(); }
    OGTE_INLINE Value weights(const B* p) { return _mm512_loadu_ps(p); }
    OGTE_INLINE Value broadcast(const void* p) {
      return _mm512_set1_ps(*static_cast<const float*>(p));
    }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) {
      asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    }
    OGTE_INLINE void store(void* tile, Acc acc) { _mm512_storeu_ps(tile, acc); }
  };

  struct Bf16 {
    static constexpr int group = 2;
    static constexpr OperandKind operand = OperandKind::bf16;
    using A = std::uint16_t;
    using B = std::uint16_t;
    using Acc = __m512;
    using Value = __m512i;
    OGTE_INLINE Acc zero() { return _mm512_setzero_ps(); }
    OGTE_INLINE Value weights(const B* p) { return _mm512_loadu_si512(p); }
    OGTE_INLINE Value broadcast(const void* p) { return _mm512_set1_epi32(read32(p)); }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) {
      asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    }
    OGTE_INLINE void store(void* tile, Acc acc) { _mm512_storeu_ps(tile, acc); }
  };

  struct Int8 {
    static constexpr int group = 4;
    static constexpr OperandKind operand = OperandKind::u8;
    using A = std::uint8_t;
    using B = std::int8_t;
    using Acc = __m512i;
    using Value = __m512i;
    OGTE_INLINE Acc zero() { return _mm512_setzero_si512(); }
    OGTE_INLINE Value weights(const B* p) { return _mm512_loadu_si512(p); }
    OGTE_INLINE Value broadcast(const void* p) { return _mm512_set1_epi32(read32(p)); }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) {
      asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    }
    OGTE_INLINE void store(void* tile, Acc acc) { _mm512_storeu_si512(tile, acc); }
  };
};

}  // namespace opengte
