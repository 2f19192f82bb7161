// Names in the Python interface and their values. An unknown name throws std::invalid_argument.
#pragma once

#include <string>

#include "model.hpp"

namespace opengte {

const Kernels* kernels_of(const std::string& isa);      // null: not on this machine
const Kernels* usable_kernels(const std::string& isa);  // throws instead
Precision precision_of(const std::string& s);
Dtype dtype_of(const std::string& s);
Activation activation_of(const std::string& s);
Pooling pooling_of(const std::string& s);

}  // namespace opengte
