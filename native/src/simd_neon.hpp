// AArch64 with the dot-product extension (ARMv8.2 and later): vectors of 8 floats in two registers,
// so that a tile of 6 rows by 16 outputs fills 24 of the 32 registers with accumulators.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels.hpp"
#include "kernels_packing.hpp"

namespace opengte {

// Common to all AArch64 levels. `Isa` is the level itself: each level gets its own copy of
// everything, compiled with its own flags, and may override functions with better instructions.
template <class Isa>
struct NeonBase {
  static constexpr int lanes = 8;
  static constexpr int tile_rows = 6;
  static constexpr bool attention_bytes = false;
  struct F {
    float32x4_t low, high;
  };

  OGTE_INLINE F zero() { return set(0.0f); }
  OGTE_INLINE F set(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
  OGTE_INLINE F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  OGTE_INLINE F load(const float* p, int n) {
    if (n >= lanes) return load(p);
    alignas(16) float lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return load(lane);
  }
  OGTE_INLINE void store(float* p, F x) {
    vst1q_f32(p, x.low);
    vst1q_f32(p + 4, x.high);
  }
  OGTE_INLINE void store(float* p, F x, int n) {
    if (n >= lanes) return store(p, x);
    alignas(16) float lane[lanes];
    store(lane, x);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
  OGTE_INLINE F add(F a, F b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
  OGTE_INLINE F sub(F a, F b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
  OGTE_INLINE F mul(F a, F b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
  OGTE_INLINE F div(F a, F b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
  OGTE_INLINE F fma(F a, F b, F c) {
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
  }
  OGTE_INLINE F max(F a, F b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }
  OGTE_INLINE F min(F a, F b) { return {vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)}; }
  OGTE_INLINE F abs(F a) { return {vabsq_f32(a.low), vabsq_f32(a.high)}; }
  OGTE_INLINE F round(F a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }
  OGTE_INLINE F copysign(F magnitude, F sign) {
    const uint32x4_t bit = vdupq_n_u32(0x80000000u);
    return {vbslq_f32(bit, sign.low, magnitude.low), vbslq_f32(bit, sign.high, magnitude.high)};
  }
  // x * 2^n for integers n up to 127; zero if n is below -126
  OGTE_INLINE F scale2(F x, F n) {
    return {vmulq_f32(x.low, power(n.low)), vmulq_f32(x.high, power(n.high))};
  }
  OGTE_INLINE F head(F a, F b, int n) {
    const int32x4_t first{0, 1, 2, 3}, end = vdupq_n_s32(n);
    return {vbslq_f32(vcltq_s32(first, end), a.low, b.low),
            vbslq_f32(vcltq_s32(vaddq_s32(first, vdupq_n_s32(4)), end), a.high, b.high)};
  }
  OGTE_INLINE float sum(F a) { return vaddvq_f32(vaddq_f32(a.low, a.high)); }
  OGTE_INLINE float highest(F a) { return vmaxvq_f32(vmaxq_f32(a.low, a.high)); }
  OGTE_INLINE float lowest(F a) { return vminvq_f32(vminq_f32(a.low, a.high)); }
  OGTE_INLINE F from_int(const std::int32_t* p) {
    return {vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4))};
  }

  OGTE_INLINE F load_bf16(const std::uint16_t* p) {
    const uint16x8_t x = vld1q_u16(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)),
            vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(x), 16))};
  }
  OGTE_INLINE F load_bf16(const std::uint16_t* p, int n) {
    if (n >= lanes) return load_bf16(p);
    alignas(16) std::uint16_t lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return load_bf16(lane);
  }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x) { vst1q_u16(p, Isa::narrow(x)); }
  OGTE_INLINE void store_bf16(std::uint16_t* p, F x, int n) {
    put(p, n, [&](std::uint16_t* to) OGTE_LAMBDA { vst1q_u16(to, Isa::narrow(x)); });
  }
  // bfloat16, to nearest, ties to even
  OGTE_INLINE uint16x8_t narrow(F x) { return vcombine_u16(narrow(x.low), narrow(x.high)); }

  // round(x) of values known to lie in 0..255
  OGTE_INLINE uint8x8_t bytes(F x) {
    const uint16x4_t low = vmovn_u32(vcvtnq_u32_f32(x.low));
    return vmovn_u16(vcombine_u16(low, vmovn_u32(vcvtnq_u32_f32(x.high))));
  }
  OGTE_INLINE void store_u8(std::uint8_t* p, F x, int n) {
    put(p, n, [&](std::uint8_t* to) OGTE_LAMBDA { vst1_u8(to, Isa::bytes(x)); });
  }
  OGTE_INLINE void store_s16(std::int16_t*, F, int) {}  // these sets multiply bytes

  // Keys and values are rearranged for every sequence and head, by shuffles of 32-bit words (one
  // float or two bfloat16).
  template <int Group, class B>
  static void transpose(const B* x, std::ptrdiff_t stride, int n, int width, B* to) {
    static_assert(Group * sizeof(B) == 4);
    constexpr int per_vector = 4 * Group;
    int first = 0;
    for (; first + per_vector <= width; first += per_vector) {
      for (int row = 0; row < 2 * lanes; row += 4) {
        transpose4(x + row * stride + first, stride, n - row, to + row * Group);
      }
      to += static_cast<std::ptrdiff_t>(2 * lanes) * per_vector;
    }
    if (first < width) {
      Packing<Isa>::template transpose<Group>(x + first, stride, n, width - first, to);
    }
  }
  template <int Group, class B>
  OGTE_INLINE void interleave(const B* x, std::ptrdiff_t stride, int row, int length, int n,
                              B* to) {
    if (n < 2 * lanes || row + Group > length) {
      Packing<Isa>::template interleave<Group>(x, stride, row, length, n, to);
      return;
    }
    const B* from = x + row * stride;
    if constexpr (Group == 1) {
      store(to, load(from));
      store(to + lanes, load(from + lanes));
    } else {
      interleave_pair(from, from + stride, to);
      interleave_pair(from + lanes, from + stride + lanes, to + 2 * lanes);
    }
  }

 private:
  OGTE_INLINE float32x4_t power(float32x4_t n) {
    const int32x4_t exponent = vmaxq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(-127));
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(exponent, vdupq_n_s32(127)), 23));
  }
  OGTE_INLINE uint16x4_t narrow(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd), 16);
  }
  // The first n of the values that `whole` writes.
  template <class T, class Whole>
  OGTE_INLINE void put(T* p, int n, Whole&& whole) {
    if (n >= lanes) return whole(p);
    alignas(16) T lane[lanes];
    whole(lane);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
  // n rows of 4 words, `stride` elements apart -> 4 columns, a panel's width apart.
  template <class B>
  OGTE_INLINE void transpose4(const B* x, std::ptrdiff_t stride, int n, B* to) {
    uint32x4_t r[4];
    unroll<4>([&](auto i) OGTE_LAMBDA {
      r[i] = i < n ? vreinterpretq_u32_u8(
                         vld1q_u8(reinterpret_cast<const std::uint8_t*>(x + i * stride)))
                   : vdupq_n_u32(0);
    });
    const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1]));
    const uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3]));
    const uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    put_column(to, 0, vzip1q_u64(a, c));
    put_column(to, 1, vzip1q_u64(b, d));
    put_column(to, 2, vzip2q_u64(a, c));
    put_column(to, 3, vzip2q_u64(b, d));
  }
  template <class B>
  OGTE_INLINE void put_column(B* to, int column, uint64x2_t x) {
    constexpr int width = 2 * lanes * 4;  // bytes
    vst1q_u8(reinterpret_cast<std::uint8_t*>(to) + column * width, vreinterpretq_u8_u64(x));
  }
  OGTE_INLINE void interleave_pair(const std::uint16_t* a, const std::uint16_t* b,
                                   std::uint16_t* to) {
    const uint16x8_t x = vld1q_u16(a), y = vld1q_u16(b);
    vst1q_u16(to, vzip1q_u16(x, y));
    vst1q_u16(to + 8, vzip2q_u16(x, y));
  }

 public:
  struct Fp32 {
    static constexpr int group = 1;
    static constexpr OperandKind operand = OperandKind::f32;
    using A = float;
    using B = float;
    using Acc = F;
    OGTE_INLINE Acc zero() { return NeonBase::zero(); }
    OGTE_INLINE F weights(const B* p) { return load(p); }
    OGTE_INLINE float32x4_t broadcast(const void* p) {
      return vld1q_dup_f32(static_cast<const float*>(p));
    }
    OGTE_INLINE void dot(Acc& acc, float32x4_t a, F b) {
      acc.low = vfmaq_f32(acc.low, a, b.low);
      acc.high = vfmaq_f32(acc.high, a, b.high);
    }
    OGTE_INLINE void store(void* tile, Acc acc) {
      NeonBase::store(static_cast<float*>(tile), acc);
    }
  };
};

struct Neon : NeonBase<Neon> {
  // The dot product of these CPUs takes two signed operands: activations are stored as q - 128.
  // quantise_signed shifts the row's lowest value accordingly, so that q * scale + low still holds.
  static constexpr int zero_point = 128;
  OGTE_INLINE uint8x8_t bytes(F x) { return veor_u8(NeonBase::bytes(x), vdup_n_u8(zero_point)); }

  // bfloat16 weights, widened as they are read; activations stay in full precision
  struct Bf16 : Fp32 {
    using B = std::uint16_t;
    OGTE_INLINE F weights(const B* p) { return load_bf16(p); }
  };

  struct Int8 {
    static constexpr int group = 4;
    static constexpr OperandKind operand = OperandKind::u8;
    using A = std::uint8_t;
    using B = std::int8_t;
    struct Acc {
      int32x4_t low, high;
    };
    struct Value {
      int8x16_t low, high;
    };
    OGTE_INLINE Acc zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
    OGTE_INLINE Value weights(const B* p) { return {vld1q_s8(p), vld1q_s8(p + 16)}; }
    OGTE_INLINE int8x16_t broadcast(const void* p) {
      return vreinterpretq_s8_s32(vdupq_n_s32(read32(p)));
    }
    OGTE_INLINE void dot(Acc& acc, int8x16_t a, Value b) {
      acc.low = vdotq_s32(acc.low, a, b.low);
      acc.high = vdotq_s32(acc.high, a, b.high);
    }
    OGTE_INLINE void store(void* tile, Acc acc) {
      auto* p = static_cast<std::int32_t*>(tile);
      vst1q_s32(p, acc.low);
      vst1q_s32(p + 4, acc.high);
    }
  };
};

}  // namespace opengte
