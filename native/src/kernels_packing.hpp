// Rearranging keys and values for attention: plain loops, for instruction sets without a faster way.
#pragma once

#include "kernels_common.hpp"

namespace opengte {

template <class Isa>
struct Packing {
  static constexpr int panel = 2 * Isa::lanes;

  // n rows of `width` values -> groups of inputs, each holding the panel's rows side by side.
  template <int Group, class B>
  static void transpose(const B* x, std::ptrdiff_t stride, int n, int width, B* to) {
    for (int first = 0; first < width; first += Group) {
      for (int r = 0; r < panel; ++r) {
        for (int g = 0; g < Group; ++g) {
          *to++ = r < n && first + g < width ? x[r * stride + first + g] : B(0);
        }
      }
    }
  }

  // Rows [row, row + Group) below `length`, n columns each -> one group of a panel.
  template <int Group, class B>
  static void interleave(const B* x, std::ptrdiff_t stride, int row, int length, int n, B* to) {
    for (int c = 0; c < panel; ++c) {
      for (int g = 0; g < Group; ++g) {
        *to++ = c < n && row + g < length ? x[(row + g) * stride + c] : B(0);
      }
    }
  }
};

}  // namespace opengte
