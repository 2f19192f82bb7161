#include "kernels.hpp"
#include "kernels_table.hpp"
#include "simd_portable.hpp"

namespace opengte {

const Kernels* kernels_portable() {
  static constexpr Kernels table = Table<Portable>::make("portable");
  return &table;
}

}  // namespace opengte
