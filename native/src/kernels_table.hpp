// Fills the kernel table of one instruction set.
#pragma once

#include "kernels_attention_bytes.hpp"
#include "kernels_maxsim.hpp"

namespace opengte {

template <class Isa>
struct Table {
  using Fp32 = typename Isa::Fp32;
  using Bf16 = typename Isa::Bf16;
  using Int8 = typename Isa::Int8;
  static constexpr bool dots_bf16 = Bf16::operand == OperandKind::bf16;
  static constexpr bool dots_bytes = Isa::attention_bytes;
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
  // Calls f with an object of the class that computes the kind.
  template <class Function>
  OGTE_INLINE auto of_kind(AttentionKind kind, Function&& f) {
    if (kind == AttentionKind::bf16) return f(Attention16{});
    if constexpr (dots_bytes) {
      if (kind == AttentionKind::int8) return f(ByteAttention<Isa>{});
    }
    return f(Attention32{});
  }
  static std::size_t keys_bytes(AttentionKind kind, int length, int head_dim) {
    return of_kind(kind, [&](auto a) OGTE_LAMBDA { return a.keys_bytes(length, head_dim); });
  }
  static std::size_t values_bytes(AttentionKind kind, int length, int head_dim) {
    return of_kind(kind, [&](auto a) OGTE_LAMBDA { return a.values_bytes(length, head_dim); });
  }
  static std::size_t scratch(AttentionKind kind, int head_dim) {
    return of_kind(kind, [&](auto a) OGTE_LAMBDA { return a.scratch(head_dim); });
  }
  static void pack_keys(AttentionKind kind, const void* k, std::ptrdiff_t stride, int length,
                        int head_dim, void* to) {
    of_kind(kind, [&](auto a) OGTE_LAMBDA { a.pack_keys(k, stride, length, head_dim, to); });
  }
  static void pack_values(AttentionKind kind, const void* v, std::ptrdiff_t stride, int length,
                          int head_dim, void* to) {
    of_kind(kind, [&](auto a) OGTE_LAMBDA { a.pack_values(v, stride, length, head_dim, to); });
  }
  static void attend(AttentionKind kind, const AttendArgs& args) {
    of_kind(kind, [&](auto a) OGTE_LAMBDA { a.attend(args); });
  }
  static void maxsim(Precision precision, const MaxSimArgs& args) {
    switch (precision) {
      case Precision::fp32: return MaxSim<Isa>::template run<Fp32, float>(args);
      case Precision::bf16: return MaxSim<Isa>::template run<Bf16, std::uint16_t>(args);
      case Precision::int8: return MaxSim<Isa>::template run<Int8, std::int8_t>(args);
    }
  }

  static constexpr Kernels make(const char* name) {
    using R = Rows<Isa>;
    return {name,
            Isa::lanes,
            {layout<Fp32>(), layout<Bf16>(), layout<Int8>()},
            dots_bf16,
            dots_bytes,
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
            &keys_bytes,
            &values_bytes,
            &pack_keys,
            &pack_values,
            &scratch,
            &attend,
            &maxsim};
  }
};

}  // namespace opengte
