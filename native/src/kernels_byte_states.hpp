// Keys and values of one head as bytes, for attention in 8-bit products.
#pragma once

#include "kernels_attention.hpp"

namespace opengte {

template <class Isa>
struct ByteStates {
  using Base = Attention<Isa, typename Isa::Int8>;
  using T = typename Base::T;
  using F = typename Isa::F;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = T::panel;
  static constexpr int group = T::group;
  static constexpr int vector_bytes = lanes * group;

  OGTE_INLINE std::size_t aligned(std::size_t n) { return (n + 63) / 64 * 64; }
  OGTE_INLINE int padded(int head_dim) { return ceil_div(head_dim, vector_bytes) * vector_bytes; }
  OGTE_INLINE int lane(int i) { return least(most(i, 0), lanes); }

  // Packed keys. A score is integer * scale + offset.
  struct Keys {
    std::int8_t* packed;
    float* scale;
    float* offset;
    float* mean;        // of a column; used while packing
    std::int8_t* room;  // a panel of keys as bytes, one after the other; used while packing

    static std::size_t floats(int length) {
      return static_cast<std::size_t>(Base::panels(length)) * panel;
    }
    static std::size_t bytes(int length, int head_dim) {
      const std::size_t wide = padded(head_dim);
      return aligned(Base::keys_elements(length, head_dim)) +
             (2 * floats(length) + wide) * sizeof(float) + panel * wide;
    }
    Keys(void* at, int length, int head_dim)
        : packed(static_cast<std::int8_t*>(at)),
          scale(reinterpret_cast<float*>(packed + aligned(Base::keys_elements(length, head_dim)))),
          offset(scale + floats(length)), mean(offset + floats(length)),
          room(reinterpret_cast<std::int8_t*>(mean + padded(head_dim))) {}
  };

  // Packed values. The result of a column is sum * scale + middle.
  struct Values {
    std::int8_t* packed;
    float* scale;
    float* middle;

    static std::size_t bytes(int length, int head_dim) {
      return aligned(Base::values_elements(length, head_dim)) +
             2 * Base::panels(head_dim) * panel * sizeof(float);
    }
    Values(void* at, int length, int head_dim)
        : packed(static_cast<std::int8_t*>(at)),
          scale(reinterpret_cast<float*>(packed + aligned(Base::values_elements(length, head_dim)))),
          middle(scale + Base::panels(head_dim) * panel) {}
  };

  static std::size_t keys_bytes(int length, int head_dim) { return Keys::bytes(length, head_dim); }
  static std::size_t values_bytes(int length, int head_dim) {
    return Values::bytes(length, head_dim);
  }

  // Largest magnitude of a row of n values; NaN if one of them is not finite, which rounding to
  // bytes would hide.
  template <class Value>
  OGTE_INLINE float magnitude(int n, Value&& value) {
    F top = Isa::zero(), wrong = Isa::zero();
    Rows<Isa>::vectors(n, [&](int i, int k) OGTE_LAMBDA {
      F x = value(i, k);
      if (k < lanes) x = Isa::head(x, Isa::zero(), k);
      top = Isa::max(Isa::abs(x), top);
      wrong = Isa::fma(x, Isa::zero(), wrong);
    });
    return Isa::highest(top) + Isa::sum(wrong);
  }

  OGTE_INLINE F load(const std::uint16_t* p, int k) {
    return k == lanes ? Isa::load_bf16(p) : Isa::load_bf16(p, k);
  }

  static void pack_keys(const void* from, std::ptrdiff_t stride, int length, int head_dim, void* to) {
    const auto* k = static_cast<const std::uint16_t*>(from);
    const Keys keys(to, length, head_dim);
    const int wide = padded(head_dim), groups = Base::steps(head_dim);
    Rows<Isa>::vectors(head_dim, [&](int i, int n) OGTE_LAMBDA {
      F total = Isa::zero();
      for (int j = 0; j < length; ++j) total = Isa::add(total, load(k + j * stride + i, n));
      Isa::store(keys.mean + i, Isa::mul(total, Isa::set(1.0f / static_cast<float>(length))));
    });
    const F never = Isa::set(-__builtin_huge_valf());  // after the last key
    std::int8_t* packed = keys.packed;
    for (int first = 0; first < length; first += panel) {
      if (first == 0 || first + panel > length) __builtin_memset(keys.room, 0, panel * wide);
      for (int r = 0; r < panel; ++r) {
        keys.scale[first + r] =
            first + r < length
                ? key_bytes(k + (first + r) * stride, keys.mean, head_dim, keys.room + r * wide)
                : 0.0f;
      }
      for (int r = 0; r < panel; r += lanes) {
        std::int8_t* half = packed + r * group;
        Isa::transpose_words(keys.room + r * wide, wide, groups, half);
        // queries are shifted by 128 to become unsigned
        const F shift = Isa::mul(Isa::sum_groups(half, T::block, groups), Isa::set(-128.0f));
        const F offset = Isa::mul(shift, Isa::load(keys.scale + first + r));
        Isa::store(keys.offset + first + r, Isa::head(offset, never, lane(length - first - r)));
      }
      packed += static_cast<std::ptrdiff_t>(groups) * T::block;
    }
  }

  // One key as bytes; returns the scale.
  OGTE_INLINE float key_bytes(const std::uint16_t* k, const float* mean, int n, std::int8_t* bytes) {
    const auto centred = [&](int i, int c) OGTE_LAMBDA {
      return Isa::sub(load(k + i, c), Isa::load(mean + i));
    };
    const float top = magnitude(n, centred);
    const F factor = Isa::set(top > 0.0f ? 127.0f / top : 0.0f);
    Rows<Isa>::vectors(n, [&](int i, int c) OGTE_LAMBDA {
      Isa::store_s8(bytes + i, Isa::mul(centred(i, c), factor), c);
    });
    return top * (1.0f / 127.0f);
  }

  static void pack_values(const void* from, std::ptrdiff_t stride, int length, int head_dim, void* to) {
    const auto* v = static_cast<const std::uint16_t*>(from);
    const Values values(to, length, head_dim);
    const std::ptrdiff_t panel_bytes =
        static_cast<std::ptrdiff_t>(Base::panels(length)) * (panel / group) * T::block;
    for (int first = 0; first < Base::panels(head_dim) * panel; first += lanes) {
      std::int8_t* packed = values.packed + first / panel * panel_bytes + first % panel * group;
      const int n = least(lanes, head_dim - first);
      if (n > 0) {
        pack_columns(v + first, stride, length, n, values.scale + first, values.middle + first, packed);
        continue;
      }
      Isa::store(values.scale + first, Isa::zero());
      Isa::store(values.middle + first, Isa::zero());
      for (std::ptrdiff_t at = 0; at < panel_bytes; at += T::block) {
        __builtin_memset(packed + at, 0, vector_bytes);
      }
    }
  }

  // Up to a vector of columns, in groups of rows with zeros behind the last.
  static void pack_columns(const std::uint16_t* x, std::ptrdiff_t stride, int length, int n,
                           float* scale, float* middle, std::int8_t* packed) {
    F lowest = load(x, n), highest = lowest, wrong = Isa::zero();
    for (int j = 0; j < length; ++j) {
      const F value = load(x + j * stride, n);
      lowest = Isa::min(value, lowest);
      highest = Isa::max(value, highest);
      wrong = Isa::fma(value, Isa::zero(), wrong);  // a value that is not finite makes the scale NaN
    }
    const F half_range = Isa::mul(Isa::sub(highest, lowest), Isa::set(0.5f));
    const F centre = Isa::add(lowest, half_range);
    const F factor = Isa::div(Isa::set(127.0f), Isa::max(half_range, Isa::set(1e-30f)));
    Isa::store(scale, Isa::fma(half_range, Isa::set(1.0f / 127.0f), wrong));
    Isa::store(middle, centre);
    const auto centred = [&](int j) OGTE_LAMBDA {
      if (j >= length) return Isa::zero();
      return Isa::mul(Isa::sub(load(x + j * stride, n), centre), factor);
    };
    for (int j = 0; j < Base::panels(length) * panel; j += group) {
      Isa::store_groups(packed, centred(j), centred(j + 1), centred(j + 2), centred(j + 3));
      packed += T::block;
    }
  }
};

}  // namespace opengte
