#include "kernels.hpp"

// The compiler may lack the flags, or target another family of processors.
#if defined(__AVX2__) && defined(__FMA__)
#include "kernels_table.hpp"
#include "simd_avx2.hpp"

namespace opengte {

const Kernels* kernels_avx2() {
  static constexpr Kernels table = Table<Avx2>::make("avx2");
  const bool supported =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return supported ? &table : nullptr;
}

}  // namespace opengte
#else
namespace opengte {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace opengte
#endif
