// AArch64 with the 8-bit and bfloat16 matrix extensions (ARMv8.6, most ARMv9): instructions that
// multiply two rows by two outputs at a time, at up to twice the rate of dot products.
#pragma once

#include "kernels_gemm.hpp"
#include "simd_neon.hpp"

namespace opengte {

struct NeonI8mm : NeonBase<NeonI8mm> {
  OGTE_INLINE uint16x8_t narrow(F x) {
    return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x.low), x.high));
  }

  // Rows and columns of a 2 x 2 product are vectors of two halves, one for each row or output.
  // `depth`: groups that a half spans. With `Full` false, only the first of them is there.
  struct Bf16 {
    static constexpr int group = 2;
    static constexpr int depth = 2;  // a group of 4 would read past heads of 2, 6, 10 ... values
    static constexpr OperandKind operand = OperandKind::bf16;
    using A = std::uint16_t;
    using B = std::uint16_t;
    using Acc = float32x4_t;
    OGTE_INLINE Acc zero() { return vdupq_n_f32(0.0f); }
    template <bool Full>
    OGTE_INLINE bfloat16x8_t rows(const char* a, const char* b) {
      if constexpr (Full) return vreinterpretq_bf16_u8(two_rows(a, b));
      return vreinterpretq_bf16_s32(int32x4_t{read32(a), 0, read32(b), 0});
    }
    template <bool Full, int Pair>
    OGTE_INLINE bfloat16x8_t columns(const B* p) {
      constexpr int at = Pair / 2 * 8, step = 2 * lanes * group;
      const uint32x4_t first = vreinterpretq_u32_u16(vld1q_u16(p + at));
      uint32x4_t second = vdupq_n_u32(0);
      if constexpr (Full) second = vreinterpretq_u32_u16(vld1q_u16(p + step + at));
      return vreinterpretq_bf16_u32(Pair % 2 ? vzip2q_u32(first, second)
                                             : vzip1q_u32(first, second));
    }
    OGTE_INLINE void dot(Acc& acc, bfloat16x8_t a, bfloat16x8_t b) {
      acc = vbfmmlaq_f32(acc, a, b);
    }
  };

  struct Int8 {
    static constexpr int group = 8;
    static constexpr int depth = 1;
    static constexpr OperandKind operand = OperandKind::u8;
    using A = std::uint8_t;
    using B = std::int8_t;
    using Acc = int32x4_t;
    OGTE_INLINE Acc zero() { return vdupq_n_s32(0); }
    template <bool Full>
    OGTE_INLINE uint8x16_t rows(const char* a, const char* b) {
      return two_rows(a, b);
    }
    template <bool Full, int Pair>
    OGTE_INLINE int8x16_t columns(const B* p) {
      return vld1q_s8(p + Pair * 16);
    }
    OGTE_INLINE void dot(Acc& acc, uint8x16_t a, int8x16_t b) { acc = vusmmlaq_s32(acc, a, b); }
  };

 private:
  OGTE_INLINE uint8x16_t two_rows(const char* a, const char* b) {
    return vcombine_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(a)),
                       vld1_u8(reinterpret_cast<const std::uint8_t*>(b)));
  }
};

// Like the general Tile, but with two rows and two outputs at a time. The four sums of an
// instruction are independent: a row's result does not depend on the row that it is paired with.
template <class Isa, class Format>
struct PairTile {
  static constexpr int panel = 2 * Isa::lanes;
  static constexpr int group = Format::group;
  static constexpr int block = panel * group;
  static constexpr int a_step = group * static_cast<int>(sizeof(typename Format::A));
  static constexpr int pairs = panel / 2;
  using B = typename Format::B;
  using Acc = typename Format::Acc;
  using Function = void (*)(const char* a, std::ptrdiff_t stride, const B* b, int steps, float* out,
                            std::ptrdiff_t out_stride);

  template <int Rows>
  static void multiply(const char* a, std::ptrdiff_t stride, const B* b, int steps, float* out,
                       std::ptrdiff_t out_stride) {
    constexpr int row_pairs = (Rows + 1) / 2;
    Acc acc[row_pairs][pairs];
    const char* row[row_pairs];
    unroll<row_pairs>([&](auto r) OGTE_LAMBDA {
      unroll<pairs>([&](auto j) OGTE_LAMBDA { acc[r][j] = Format::zero(); });
      row[r] = a + 2 * r * stride;
    });
    const auto step = [&](auto full) OGTE_LAMBDA {
      decltype(Format::template rows<full>(a, a)) x[row_pairs];
      unroll<row_pairs>([&](auto r) OGTE_LAMBDA {
        // an odd row at the end is paired with itself
        x[r] = Format::template rows<full>(row[r], row[r] + (2 * r + 1 < Rows ? stride : 0));
      });
      unroll<pairs>([&](auto j) OGTE_LAMBDA {
        const auto w = Format::template columns<full, j>(b);
        unroll<row_pairs>([&](auto r) OGTE_LAMBDA { Format::dot(acc[r][j], x[r], w); });
      });
    };
    for (; steps >= Format::depth; steps -= Format::depth) {
      step(std::true_type{});
      b += Format::depth * block;
      unroll<row_pairs>([&](auto r) OGTE_LAMBDA { row[r] += Format::depth * a_step; });
    }
    if (steps > 0) step(std::false_type{});
    unroll<Rows>([&](auto r) OGTE_LAMBDA { store<r % 2>(acc[r / 2], out + r * out_stride); });
  }

  // One of the two rows that the sums of 2 x 2 products hold.
  template <int Half>
  OGTE_INLINE void store(const Acc (&acc)[pairs], float* out) {
    unroll<pairs / 2>([&](auto j) OGTE_LAMBDA {
      const uint64x2_t x = reinterpret_cast<uint64x2_t>(acc[2 * j]);
      const uint64x2_t y = reinterpret_cast<uint64x2_t>(acc[2 * j + 1]);
      const uint64x2_t row = Half ? vzip2q_u64(x, y) : vzip1q_u64(x, y);
      vst1q_f32(out + 4 * j, vreinterpretq_f32_u64(row));
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

template <>
struct Tile<NeonI8mm, NeonI8mm::Bf16> : PairTile<NeonI8mm, NeonI8mm::Bf16> {};
template <>
struct Tile<NeonI8mm, NeonI8mm::Int8> : PairTile<NeonI8mm, NeonI8mm::Int8> {};

}  // namespace opengte
