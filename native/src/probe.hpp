#pragma once

#include <nanobind/nanobind.h>

namespace opengte {

void add_probes(nanobind::module_& parent);

}  // namespace opengte
