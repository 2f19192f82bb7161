#include "kernels.hpp"

// The compiler may lack the flags, or target another family of processors.
#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8) && \
    defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "features_arm.hpp"
#include "kernels_table.hpp"
#include "simd_neon_i8mm.hpp"

namespace opengte {

const Kernels* kernels_neon_i8mm() {
  static constexpr Kernels table = Table<NeonI8mm>::make("neon_i8mm");
  return has_matrices() ? &table : nullptr;
}

}  // namespace opengte
#else
namespace opengte {
const Kernels* kernels_neon_i8mm() { return nullptr; }
}  // namespace opengte
#endif
