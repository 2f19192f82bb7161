// Fills the kernel table of one instruction set.
#pragma once

#include "kernels_attention.hpp"

namespace opengte {

template <class Isa>
struct Table {
  using Fp32 = typename Isa::Fp32;
  using Bf16 = typename Isa::Bf16;
  using Int8 = typename Isa::Int8;
  static constexpr bool dots_bf16 = Bf16::operand == OperandKind::bf16;
  using Attention32 = Attention<Isa, Fp32>;
  using Attention16 = Attention<Isa, std::conditional_t<dots_bf16, Bf16, Fp32>>;

  template <class Format>
  static constexpr Layout layout() {
    return {2 * Isa::lanes, Format::group, static_cast<int>(sizeof(typename Format::B)),
            Format::operand};
  }

  static void multiply(const GemmArgs& args) {
    switch (args.linear->precision) {
      case Precision::fp32: return gemm<Isa, Fp32>(args);
      case Precision::bf16: return gemm<Isa, Bf16>(args);
      case Precision::int8: return gemm<Isa, Int8>(args);
    }
  }
  static std::size_t keys_elements(bool bf16, int length, int head_dim) {
    return bf16 ? Attention16::keys_elements(length, head_dim)
                : Attention32::keys_elements(length, head_dim);
  }
  static std::size_t values_elements(bool bf16, int length, int head_dim) {
    return bf16 ? Attention16::values_elements(length, head_dim)
                : Attention32::values_elements(length, head_dim);
  }
  template <class Att>
  static void keys(const void* k, std::ptrdiff_t stride, int length, int head_dim, void* to) {
    using B = typename Att::B;
    Att::pack_keys(static_cast<const B*>(k), stride, length, head_dim, static_cast<B*>(to));
  }
  template <class Att>
  static void values(const void* v, std::ptrdiff_t stride, int length, int head_dim, void* to) {
    using B = typename Att::B;
    Att::pack_values(static_cast<const B*>(v), stride, length, head_dim, static_cast<B*>(to));
  }
  static void pack_keys(bool bf16, const void* k, std::ptrdiff_t stride, int length, int head_dim,
                        void* to) {
    (bf16 ? keys<Attention16> : keys<Attention32>)(k, stride, length, head_dim, to);
  }
  static void pack_values(bool bf16, const void* v, std::ptrdiff_t stride, int length, int head_dim,
                          void* to) {
    (bf16 ? values<Attention16> : values<Attention32>)(v, stride, length, head_dim, to);
  }
  static void attend(bool bf16, const AttendArgs& args) {
    bf16 ? Attention16::attend(args) : Attention32::attend(args);
  }

  static constexpr Kernels make(const char* name) {
    using R = Rows<Isa>;
    return {name,
            Isa::lanes,
            {layout<Fp32>(), layout<Bf16>(), layout<Int8>()},
            dots_bf16,
            Isa::tile_rows,
            &multiply,
            &R::norm,
            &R::add,
            &R::scale,
            &R::activate,
            &R::quantise,
            &R::to_bf16,
            &R::from_bf16,
            &R::rotate,
            &keys_elements,
            &values_elements,
            &pack_keys,
            &pack_values,
            &Attention32::scratch,
            &attend};
  }
};

}  // namespace opengte
