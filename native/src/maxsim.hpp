#pragma once

#include <nanobind/nanobind.h>

namespace opengte {

void add_maxsim(nanobind::module_& parent);

}  // namespace opengte
