#include "kernels.hpp"

// The compiler may lack the flags, or target another family of processors.
#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#include "kernels_table.hpp"
#include "simd_avx512.hpp"

namespace opengte {

const Kernels* kernels_avx512() {
  static constexpr Kernels table = Table<Avx512>::make("avx512");
  const bool supported =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("bmi2");
  return supported ? &table : nullptr;
}

}  // namespace opengte
#else
namespace opengte {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace opengte
#endif
