// Small helpers shared by the kernel templates.
//
// The kernels are compiled several times with different flags into one library. Whatever they call
// must therefore be inlined or be a template over the instruction set: a shared inline function
// could be merged by the linker into its most demanding copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define OGTE_INLINE static inline __attribute__((always_inline))
#define OGTE_LAMBDA __attribute__((always_inline))

namespace opengte {
namespace {

OGTE_INLINE std::int32_t read32(const void* p) {
  std::int32_t x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

OGTE_INLINE int least(int a, int b) { return a < b ? a : b; }
OGTE_INLINE int most(int a, int b) { return a > b ? a : b; }
OGTE_INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Calls f(0), f(1), ... f(N - 1) with compile-time indices, so that arrays of accumulators become
// registers.
template <int... I, class F>
OGTE_INLINE void unroll_indices(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
OGTE_INLINE void unroll(F&& f) {
  unroll_indices(std::make_integer_sequence<int, N>{}, f);
}

}  // namespace
}  // namespace opengte
