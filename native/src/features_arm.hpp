// The extensions that this AArch64 CPU has.
#pragma once

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstddef>
#endif

namespace opengte {
namespace {

#if defined(__linux__)
// Numbers of the Linux kernel; the headers of older systems lack their names.
inline bool has_dot_product() { return getauxval(AT_HWCAP) >> 20 & 1; }
inline bool has_matrices() {
  const unsigned long both = 1ul << 13 | 1ul << 14;  // 8-bit and bfloat16
  return has_dot_product() && (getauxval(AT_HWCAP2) & both) == both;
}
#elif defined(__APPLE__)
inline bool has_feature(const char* name) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
inline bool has_dot_product() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
inline bool has_matrices() {
  return has_dot_product() && has_feature("hw.optional.arm.FEAT_I8MM") &&
         has_feature("hw.optional.arm.FEAT_BF16");
}
#else
inline bool has_dot_product() { return false; }
inline bool has_matrices() { return false; }
#endif

}  // namespace
}  // namespace opengte
