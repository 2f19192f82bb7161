// AVX2 with FMA and F16C-era processors: vectors of 8 floats, no bfloat16 and no byte dot products.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels.hpp"
#include "kernels_packing.hpp"

namespace opengte {

struct Avx2 {
  static constexpr int lanes = 8;
  static constexpr int tile_rows = 6;
  static constexpr bool attention_bytes = false;
  using F = __m256;

  OGTE_INLINE __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  OGTE_INLINE F zero() { return _mm256_setzero_ps(); }
  OGTE_INLINE F set(float x) { return _mm256_set1_ps(x); }
  OGTE_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  OGTE_INLINE F load(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  OGTE_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  OGTE_INLINE void store(float* p, F x, int n) { _mm256_maskstore_ps(p, mask(n), x); }
  OGTE_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  OGTE_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  OGTE_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  OGTE_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  OGTE_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  OGTE_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  OGTE_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  OGTE_INLINE F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  OGTE_INLINE F round(F a) { return _mm256_round_ps(a, 8); }
  OGTE_INLINE F copysign(F magnitude, F sign) {
    return _mm256_or_ps(abs(magnitude), _mm256_and_ps(set(-0.0f), sign));
  }
  OGTE_INLINE F scale2(F x, F n) {
    const __m256i bits = _mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(bits));
  }
  OGTE_INLINE F head(F a, F b, int n) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask(n)));
  }
  OGTE_INLINE float sum(F a) {
    return fold(a, [](__m128 x, __m128 y) OGTE_LAMBDA { return _mm_add_ps(x, y); });
  }
  OGTE_INLINE float highest(F a) {
    return fold(a, [](__m128 x, __m128 y) OGTE_LAMBDA { return _mm_max_ps(x, y); });
  }
  OGTE_INLINE float lowest(F a) {
    return fold(a, [](__m128 x, __m128 y) OGTE_LAMBDA { return _mm_min_ps(x, y); });
  }
  OGTE_INLINE F from_int(const std::int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  OGTE_INLINE F load_bf16(const std::uint16_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  OGTE_INLINE F load_bf16(const std::uint16_t* p, int n) {
    alignas(16) std::uint16_t lane[8] = {};
    __builtin_memcpy(lane, p, static_cast<std::size_t>(n) * 2);
    return load_bf16(lane);
  }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x) {
    // to nearest, ties to even
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i high = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
  }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x, int n) {
    alignas(16) std::uint16_t lane[8];
    store_bf16(lane, x);
    __builtin_memcpy(p, lane, static_cast<std::size_t>(n) * 2);
  }
  OGTE_INLINE void store_s16(std::int16_t* p, F x, int n) {
    const __m256i whole = _mm256_cvtps_epi32(x);
    const __m128i packed =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    if (n == lanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
      return;
    }
    alignas(16) std::int16_t lane[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(lane), packed);
    __builtin_memcpy(p, lane, static_cast<std::size_t>(n) * 2);
  }
  OGTE_INLINE void store_u8(std::uint8_t*, F, int) {}  // this set multiplies 16-bit operands

  template <int Group, class B>
  OGTE_INLINE void transpose(const B* x, std::ptrdiff_t stride, int n, int width, B* to) {
    Packing<Avx2>::template transpose<Group>(x, stride, n, width, to);
  }
  template <int Group, class B>
  OGTE_INLINE void interleave(const B* x, std::ptrdiff_t stride, int row, int length, int n, B* to) {
    Packing<Avx2>::template interleave<Group>(x, stride, row, length, n, to);
  }

 private:
  template <class Op>
  OGTE_INLINE float fold(F a, Op&& op) {
    __m128 x = op(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = op(x, _mm_movehl_ps(x, x));
    x = op(x, _mm_shuffle_ps(x, x, 1));
    return _mm_cvtss_f32(x);
  }

 public:
  struct Fp32 {
    static constexpr int group = 1;
    static constexpr OperandKind operand = OperandKind::f32;
    using A = float;
    using B = float;
    using Acc = __m256;
    using Value = __m256;
    OGTE_INLINE Acc zero() { return _mm256_setzero_ps(); }
    OGTE_INLINE Value weights(const B* p) { return _mm256_loadu_ps(p); }
    OGTE_INLINE Value broadcast(const void* p) {
      return _mm256_broadcast_ss(static_cast<const float*>(p));
    }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) { acc = _mm256_fmadd_ps(a, b, acc); }
    OGTE_INLINE void store(void* tile, Acc acc) {
      _mm256_storeu_ps(static_cast<float*>(tile), acc);
    }
  };

  // bfloat16 weights, widened as they are read; activations stay in full precision
  struct Bf16 : Fp32 {
    using B = std::uint16_t;
    OGTE_INLINE Value weights(const B* p) { return load_bf16(p); }
  };

  // Pairs of 16-bit products cannot overflow here, where the byte instruction of this set would
  // saturate: 2 * 255 * 127 needs 17 bits.
  struct Int8 {
    static constexpr int group = 2;
    static constexpr OperandKind operand = OperandKind::s16;
    using A = std::int16_t;
    using B = std::int8_t;
    using Acc = __m256i;
    using Value = __m256i;
    OGTE_INLINE Acc zero() { return _mm256_setzero_si256(); }
    OGTE_INLINE Value weights(const B* p) {
      return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    OGTE_INLINE Value broadcast(const void* p) { return _mm256_set1_epi32(read32(p)); }
    OGTE_INLINE void dot(Acc& acc, Value a, Value b) {
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
    }
    OGTE_INLINE void store(void* tile, Acc acc) {
      _mm256_storeu_si256(static_cast<__m256i*>(tile), acc);
    }
  };
};

}  // namespace opengte
