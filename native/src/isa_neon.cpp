#include "kernels.hpp"

// The compiler may lack the flags, or target another family of processors.
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "features_arm.hpp"
#include "kernels_table.hpp"
#include "simd_neon.hpp"

namespace opengte {
namespace {

void quantise_signed(const QuantiseArgs& args) {
  Rows<Neon>::quantise(args);
  *args.low += static_cast<float>(Neon::zero_point) * *args.scale;
}

constexpr Kernels make() {
  Kernels table = Table<Neon>::make("neon");
  table.quantise = &quantise_signed;
  return table;
}

}  // namespace

const Kernels* kernels_neon() {
  static constexpr Kernels table = make();
  return has_dot_product() ? &table : nullptr;
}

}  // namespace opengte
#else
namespace opengte {
const Kernels* kernels_neon() { return nullptr; }
}  // namespace opengte
#endif
