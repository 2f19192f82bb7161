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
  static constexpr bool attention_bytes = true;
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
    put_bytes(p, _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x)), n);
  }
  OGTE_INLINE void store_s16(std::int16_t* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, mask(n), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
  }
  OGTE_INLINE void store_s8(std::int8_t* p, F x, int n) {
    put_bytes(p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)), n);
  }
  // round(256 * 2^(x / 256)) of 64 values x <= 0 as bytes, to 0.002 of the value; adds them to a
  // total as well. NaN, and x too low for a byte, give 0.
  OGTE_INLINE void store_powers_u8(std::uint8_t* p, F a, F b, F c, F d, __m512i& total) {
    const __m512i bytes = in_order(_mm512_packus_epi16(powers(a, b), powers(c, d)));
    _mm512_storeu_si512(p, bytes);
    total = _mm512_dpbusd_epi32(total, bytes, _mm512_set1_epi8(1));
  }
  OGTE_INLINE F to_float(__m512i x) { return _mm512_cvtepi32_ps(x); }
  OGTE_INLINE int sum(__m512i a) { return _mm512_reduce_add_epi32(a); }
  // Sums of the groups of each lane, over vectors that are `stride` bytes apart.
  OGTE_INLINE F sum_groups(const std::int8_t* p, std::ptrdiff_t stride, int vectors) {
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < vectors; ++i) {
      total = _mm512_dpbusd_epi32(total, _mm512_set1_epi8(1), _mm512_loadu_si512(p + i * stride));
    }
    return _mm512_cvtepi32_ps(total);
  }
  // Four rows of 16 values in -127..127 -> 16 groups of four bytes.
  OGTE_INLINE void store_groups(std::int8_t* to, F a, F b, F c, F d) {
    const __m512i low = _mm512_mask_blend_epi8(0x2222222222222222u, byte0(a), byte1(b));
    const __m512i high = _mm512_mask_blend_epi8(0x8888888888888888u, byte2(c), byte3(d));
    _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xAAAAAAAAu, low, high));
  }

 private:
  // Through a register: compilers would narrow directly to memory, which is slower on Zen 4.
  OGTE_INLINE void put_bytes(void* p, __m128i x, int n) {
    asm("" : "+x"(x));
    if (n == lanes) _mm_storeu_si128(static_cast<__m128i*>(p), x);
    else _mm_mask_storeu_epi8(p, mask(n), x);
  }
  // The powers of 32 values as 16-bit numbers: the integer part is a shift, the fraction the minimax
  // cubic 0.99993 + y (0.69580 + y (0.22619 + 0.07792 y)) in fixed point with 14 fractional bits.
  OGTE_INLINE __m512i powers(F a, F b) {
    const __m512i x = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
    const __m512i y = _mm512_and_si512(_mm512_slli_epi16(x, 7), _mm512_set1_epi16(0x7F80));
    const auto next = [&](__m512i sum, short constant) OGTE_LAMBDA {
      return _mm512_add_epi16(_mm512_mulhrs_epi16(sum, y), _mm512_set1_epi16(constant));
    };
    const __m512i octave = next(next(next(_mm512_set1_epi16(1277), 3706), 11400), 16383);
    const __m512i down = _mm512_sub_epi16(_mm512_set1_epi16(5), _mm512_srai_epi16(x, 8));
    // one extra bit for rounding
    return _mm512_avg_epu16(_mm512_srlv_epi16(octave, down), _mm512_setzero_si512());
  }
  // Packing puts four values of each vector next to each other within every quarter.
  OGTE_INLINE __m512i in_order(__m512i x) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
  }
  OGTE_INLINE __m512i byte0(F x) { return _mm512_cvtps_epi32(x); }
  OGTE_INLINE __m512i byte1(F x) { return _mm512_slli_epi32(_mm512_cvtps_epi32(x), 8); }
  OGTE_INLINE __m512i byte2(F x) { return _mm512_slli_epi32(_mm512_cvtps_epi32(x), 16); }
  OGTE_INLINE __m512i byte3(F x) { return _mm512_slli_epi32(_mm512_cvtps_epi32(x), 24); }
  OGTE_INLINE F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  OGTE_INLINE __m256i narrow(F x) { return (__m256i)_mm512_cvtneps_pbh(x); }

 public:
  // Keys and values are rearranged for every sequence and head, so shuffles are used.
  template <int Group, class B>
  static void transpose(const B* x, std::ptrdiff_t stride, int n, int width, B* to) {
    constexpr int per_vector = 64 / static_cast<int>(sizeof(B));  // inputs that a register holds
    int first = 0;
    for (; first + per_vector <= width; first += per_vector) {
      for (int half = 0; half < 2; ++half) {
        transpose16(x + half * lanes * stride + first, stride, n - half * lanes, lanes,
                    reinterpret_cast<std::int32_t*>(to) + half * lanes);
      }
      to += static_cast<std::ptrdiff_t>(2 * lanes) * per_vector;
    }
    if (first < width) {
      Packing<Avx512>::template transpose<Group>(x + first, stride, n, width - first, to);
    }
  }

  // 16 rows of words of four bytes, rows that whole vectors can be read of -> columns of 16 words,
  // a panel apart.
  static void transpose_words(const std::int8_t* x, std::ptrdiff_t stride, int words, std::int8_t* to) {
    for (int first = 0; first < words; first += lanes) {
      transpose16(x + 4 * first, stride, lanes, words - first,
                  reinterpret_cast<std::int32_t*>(to) + first * 2 * lanes);
    }
  }

  template <int Group, class B>
  static void interleave(const B* x, std::ptrdiff_t stride, int row, int length, int n, B* to) {
    if constexpr (Group == 2) {
      const B* second = row + 1 < length ? x + (row + 1) * stride : nullptr;
      interleave_pair(row < length ? x + row * stride : nullptr, second, n, to);
    } else {
      for (int half = 0; half < 2; ++half) {
        const int count = row < length ? n - half * lanes : 0;
        store(to + half * lanes, count > 0 ? load(x + row * stride + half * lanes, count) : zero());
      }
    }
  }

 private:
  // n rows of 16 words, `stride` elements apart -> up to 16 columns, written 32 words apart.
  template <class B>
  static void transpose16(const B* x, std::ptrdiff_t stride, int n, int columns, std::int32_t* to) {
    __m512i r[16], t[16];
    unroll<16>([&](auto i) OGTE_LAMBDA {
      r[i] = i < n ? _mm512_loadu_si512(x + i * stride) : _mm512_setzero_si512();
    });
    unroll<8>([&](auto i) OGTE_LAMBDA {
      t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    });
    unroll<4>([&](auto i) OGTE_LAMBDA {
      r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
      r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
      r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
      r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    });
    // r[4 i + j] holds, in its four quarters, columns j, 4 + j, 8 + j, 12 + j of rows 4 i to 4 i + 3
    unroll<4>([&](auto j) OGTE_LAMBDA {
      const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
      const __m512i b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
      const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xDD);
      const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xDD);
      put_column(to, j, columns, _mm512_shuffle_i32x4(a, b, 0x88));
      put_column(to, 8 + j, columns, _mm512_shuffle_i32x4(a, b, 0xDD));
      put_column(to, 4 + j, columns, _mm512_shuffle_i32x4(c, d, 0x88));
      put_column(to, 12 + j, columns, _mm512_shuffle_i32x4(c, d, 0xDD));
    });
  }
  OGTE_INLINE void put_column(std::int32_t* to, int column, int columns, __m512i x) {
    if (column >= columns) return;
    _mm512_storeu_si512(to + static_cast<std::ptrdiff_t>(column) * 2 * lanes, x);
  }

  // Two rows of up to 32 values -> 32 pairs; a null row is zero.
  OGTE_INLINE void interleave_pair(const std::uint16_t* a, const std::uint16_t* b, int n,
                                   std::uint16_t* to) {
    const __mmask32 keep = _bzhi_u32(0xFFFFFFFFu, n);
    const __m512i none = _mm512_setzero_si512();
    const __m512i x = a ? _mm512_maskz_loadu_epi16(keep, a) : none;
    const __m512i y = b ? _mm512_maskz_loadu_epi16(keep, b) : none;
    const __m512i low = _mm512_unpacklo_epi16(x, y), high = _mm512_unpackhi_epi16(x, y);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi64(low, first, high));
    _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi64(low, second, high));
  }

 public:
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
