#include "names.hpp"

#include <map>
#include <stdexcept>

namespace opengte {
namespace {

template <class E>
E one_of(const std::string& value, const std::map<std::string, E>& names, const char* what) {
  const auto found = names.find(value);
  if (found == names.end()) {
    throw std::invalid_argument("unknown " + std::string(what) + " `" + value + "`");
  }
  return found->second;
}

}  // namespace

const Kernels* kernels_of(const std::string& isa) {
  if (isa == "portable") return kernels_portable();
  if (isa == "avx2") return kernels_avx2();
  if (isa == "avx512") return kernels_avx512();
  if (isa == "amx") return kernels_amx();
  if (isa == "neon") return kernels_neon();
  if (isa == "neon_i8mm") return kernels_neon_i8mm();
  throw std::invalid_argument("unknown instruction set `" + isa +
                              "`, expected amx, avx512, avx2, neon_i8mm, neon or portable");
}

const Kernels* usable_kernels(const std::string& isa) {
  const Kernels* k = kernels_of(isa);
  if (k == nullptr) throw std::invalid_argument("this machine or build has no `" + isa + "`");
  return k;
}

Precision precision_of(const std::string& s) {
  return one_of<Precision>(
      s, {{"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"int8", Precision::int8}},
      "precision");
}
Dtype dtype_of(const std::string& s) {
  return one_of<Dtype>(s, {{"fp32", Dtype::f32}, {"fp16", Dtype::f16}, {"bf16", Dtype::bf16}},
                       "dtype");
}
Activation activation_of(const std::string& s) {
  using A = Activation;
  return one_of<A>(s,
                   {{"identity", A::identity},
                    {"gelu", A::gelu},
                    {"gelu_tanh", A::gelu_tanh},
                    {"silu", A::silu},
                    {"relu", A::relu},
                    {"tanh", A::tanh}},
                   "activation");
}
Pooling pooling_of(const std::string& s) {
  return one_of<Pooling>(s,
                         {{"none", Pooling::none},
                          {"cls", Pooling::cls},
                          {"mean", Pooling::mean},
                          {"last", Pooling::last},
                          {"latent", Pooling::latent},
                          {"max", Pooling::max},
                          {"mean_sqrt", Pooling::mean_sqrt},
                          {"weighted", Pooling::weighted}},
                         "pooling");
}

}  // namespace opengte
