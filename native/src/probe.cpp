// Single kernels, callable from Python: tests compare them with plain arithmetic, the benchmark times
// them.
#include "probe.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "buffer.hpp"
#include "gil.hpp"
#include "names.hpp"
#include "packing.hpp"

namespace nb = nanobind;

namespace opengte {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Rows in the form that a product reads.
struct Operands {
  Buffer data, scale, low;
  Operand view{};

  Operands(const Kernels& k, const Linear& linear, const float* x, int rows) {
    const Layout layout = k.layouts[static_cast<int>(linear.precision)];
    const std::size_t item = operand_bytes(layout.operand);
    const std::size_t stride = (linear.steps * layout.group * item + 63) / 64 * 64;
    data.reserve(rows * stride);
    scale.reserve(rows * sizeof(float));
    low.reserve(rows * sizeof(float));
    std::memset(data.as<char>(), 0, rows * stride);
    for (int i = 0; i < rows; ++i) {
      auto* to = data.as<std::uint8_t>() + i * stride;
      const float* from = x + static_cast<std::ptrdiff_t>(i) * linear.inputs;
      if (layout.operand == OperandKind::f32) {
        std::memcpy(to, from, linear.inputs * sizeof(float));
      } else if (layout.operand == OperandKind::bf16) {
        k.to_bf16(from, linear.inputs, reinterpret_cast<std::uint16_t*>(to));
      } else {
        k.quantise({from, false, &linear, layout.operand, to, scale.as<float>() + i,
                    low.as<float>() + i});
      }
    }
    view = {data.as<void>(), static_cast<std::ptrdiff_t>(stride), scale.as<float>(), low.as<float>()};
  }
};

struct Weights {
  Buffer block;
  Linear linear;

  Weights(const Kernels& k, Precision p, bool gated, const float* w, const float* bias, int outputs,
          int inputs) {
    const PackedLinear packed{k.layouts[static_cast<int>(p)], p, gated, outputs, inputs};
    block.reserve(packed.bytes());
    auto* to = block.as<std::uint8_t>();
    std::memset(to, 0, packed.bytes());
    packed.pack_weights(w, Dtype::f32, 0, outputs, to);
    packed.pack_bias(bias, Dtype::f32, 0, outputs, to);
    linear = packed.view(to);
  }
};

void multiply(const std::string& isa, const std::string& precision, const std::string& activation,
              bool gated, bool exact, Matrix x, Matrix w, Vector bias, Result y) {
  const Kernels& k = *usable_kernels(isa);
  const int outputs = static_cast<int>(w.shape(0)), inputs = static_cast<int>(w.shape(1));
  const int rows = static_cast<int>(x.shape(0));
  if (static_cast<int>(x.shape(1)) != inputs || static_cast<int>(bias.shape(0)) != outputs ||
      static_cast<int>(y.shape(0)) != rows ||
      static_cast<int>(y.shape(1)) != (gated ? outputs / 2 : outputs)) {
    throw std::invalid_argument("the shapes do not fit");
  }
  const Weights weights(k, precision_of(precision), gated, w.data(), bias.data(), outputs, inputs);
  const Operands operands(k, weights.linear, x.data(), rows);
  Epilogue then;
  then.kind = gated ? Epilogue::gate : Epilogue::activate;
  then.activation = activation_of(activation);
  then.exact = exact;
  then.out = y.data();
  then.stride = static_cast<std::ptrdiff_t>(y.shape(1));
  k.gemm({&weights.linear, operands.view, rows, 0, weights.linear.panels, then});
}

// The fastest kind that the instruction set has and the precision allows.
AttentionKind attention_of(const Kernels& k, Precision precision) {
  if (precision == Precision::int8 && k.attention_int8) return AttentionKind::int8;
  return precision != Precision::fp32 && k.attention_bf16 ? AttentionKind::bf16 : AttentionKind::f32;
}

void attend(const std::string& isa, const std::string& precision, bool causal, int window, Matrix q, Matrix k, Matrix v,
            Result y) {
  const Kernels& kernels = *usable_kernels(isa);
  const AttentionKind kind = attention_of(kernels, precision_of(precision));
  const bool narrow = kind != AttentionKind::f32;
  const int length = static_cast<int>(q.shape(0)), d = static_cast<int>(q.shape(1));
  if (k.shape(0) != q.shape(0) || v.shape(0) != q.shape(0) || k.shape(1) != q.shape(1) ||
      v.shape(1) != q.shape(1) || y.shape(0) != q.shape(0) || y.shape(1) != q.shape(1) ||
      (narrow && d % 2 != 0)) {
    throw std::invalid_argument("the shapes do not fit");
  }
  const std::size_t n = static_cast<std::size_t>(length) * d, item = narrow ? 2 : 4;
  Buffer states[3], keys, values, scratch;
  const float* sources[3] = {q.data(), k.data(), v.data()};
  for (int i = 0; i < 3; ++i) {
    states[i].reserve(n * item);
    if (narrow) kernels.to_bf16(sources[i], static_cast<int>(n), states[i].as<std::uint16_t>());
    else std::memcpy(states[i].as<void>(), sources[i], n * item);
  }
  keys.reserve(kernels.keys_bytes(kind, length, d));
  values.reserve(kernels.values_bytes(kind, length, d));
  scratch.reserve(kernels.attend_scratch(kind, d) * sizeof(float));
  kernels.pack_keys(kind, states[1].as<void>(), d, length, d, keys.as<void>());
  kernels.pack_values(kind, states[2].as<void>(), d, length, d, values.as<void>());
  AttendArgs args{};
  args.q = args.out = states[0].as<void>();
  args.q_stride = args.out_stride = d;
  args.last = length;
  args.keys = keys.as<void>();
  args.values = values.as<void>();
  args.length = length;
  args.head_dim = d;
  args.scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
  args.causal = causal;
  args.window = window;
  args.scratch = scratch.as<float>();
  kernels.attend(kind, args);
  if (narrow) kernels.from_bf16(states[0].as<std::uint16_t>(), static_cast<int>(n), y.data());
  else std::memcpy(y.data(), states[0].as<void>(), n * item);
}

void norm(const std::string& isa, bool rms, float eps, Matrix x, Vector weight, Vector bias, Result y) {
  const int width = static_cast<int>(x.shape(1));
  if (weight.shape(0) != x.shape(1) || y.shape(0) != x.shape(0) || y.shape(1) != x.shape(1) ||
      (bias.shape(0) != 0 && bias.shape(0) != x.shape(1))) {
    throw std::invalid_argument("the shapes do not fit");
  }
  const NormArgs args{weight.data(), bias.shape(0) ? bias.data() : nullptr, eps, rms, width};
  for (std::size_t i = 0; i < x.shape(0); ++i) {
    usable_kernels(isa)->norm(x.data() + i * width, y.data() + i * width, args);
  }
}

// Operations per second of the product on one thread, the best of `rounds`.
double rate(const std::string& isa, const std::string& precision, int rows, int outputs, int inputs,
            int rounds) {
  const Kernels& k = *usable_kernels(isa);
  if (rows < 1 || outputs < 1 || inputs < 1) throw std::invalid_argument("no valid shape");
  const std::vector<float> w(static_cast<std::size_t>(outputs) * inputs, 0.01f), bias(outputs);
  const std::vector<float> x(static_cast<std::size_t>(rows) * inputs, 0.5f);
  Buffer y;
  y.reserve(static_cast<std::size_t>(rows) * outputs * sizeof(float));
  const Weights weights(k, precision_of(precision), false, w.data(), bias.data(), outputs, inputs);
  const Operands operands(k, weights.linear, x.data(), rows);
  Epilogue then;
  then.out = y.as<void>();
  then.stride = outputs;
  const double work = 2.0 * rows * outputs * inputs;
  const int repeats = static_cast<int>(1e9 / work) + 1;
  double best = 0.0;
  const WithoutGil released;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) {
      k.gemm({&weights.linear, operands.view, rows, 0, weights.linear.panels, then});
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, repeats * work / took.count());
  }
  return best;
}

}  // namespace

void add_probes(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("probe", "Single kernels, for tests and benchmarks.");
  m.def("multiply", &multiply, nb::arg("isa"), nb::arg("precision"), nb::arg("activation"),
        nb::arg("gated"), nb::arg("exact"), nb::arg("x"), nb::arg("w"), nb::arg("bias"),
        nb::arg("y"));
  m.def("attend", &attend, nb::arg("isa"), nb::arg("precision"), nb::arg("causal"), nb::arg("window"),
        nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("y"));
  m.def("norm", &norm, nb::arg("isa"), nb::arg("rms"), nb::arg("eps"), nb::arg("x"),
        nb::arg("weight"), nb::arg("bias"), nb::arg("y"));
  m.def("rate", &rate, nb::arg("isa"), nb::arg("precision"), nb::arg("rows"), nb::arg("outputs"),
        nb::arg("inputs"), nb::arg("rounds"));
}

}  // namespace opengte
