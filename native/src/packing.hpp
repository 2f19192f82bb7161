// Packs checkpoint rows into the form that the kernels read. Runs once per model; the result can be
// stored in a file and mapped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

namespace opengte {

enum class Dtype : int { f32 = 0, f16 = 1, bf16 = 2 };

constexpr std::size_t dtype_bytes(Dtype d) { return d == Dtype::f32 ? 4 : 2; }

void to_float(const void* x, Dtype dtype, std::size_t n, float* y);

// A packed matrix in one buffer: weights, then scale, sum and bias per output, then centre and factor
// per input, each 64-byte aligned.
struct PackedLinear {
  Layout layout;
  Precision precision;
  bool gated;
  int outputs, inputs;  // of the checkpoint: a gated matrix has 2 * inner outputs

  int panels() const;
  int steps() const { return (inputs + layout.group - 1) / layout.group; }
  std::size_t weight_bytes() const;
  std::size_t vector_bytes() const;
  std::size_t input_bytes() const;
  std::size_t bytes() const { return weight_bytes() + 3 * vector_bytes() + 2 * input_bytes(); }

  // The packed position of output `row` of the checkpoint: panel * layout.panel + column.
  std::size_t place(int row) const;

  // Spreads the inputs' ranges before they are quantised: x becomes (x - centre) / spread. For int8
  // only, and before the weights. Without it, inputs are quantised as they are.
  void smooth(const float* centre, const float* spread, std::uint8_t* to) const;

  // Both require a zeroed `to` before the first call, and accept ranges of rows in any order.
  void pack_weights(const void* rows, Dtype dtype, int first, int count, std::uint8_t* to) const;
  void pack_bias(const void* values, Dtype dtype, int first, int count, std::uint8_t* to) const;

  Linear view(const std::uint8_t* from) const;

 private:
  float* vector(std::uint8_t* to, int i) const;  // scale, sum, bias
  float* inputs_at(std::uint8_t* to, int i) const;  // centre, factor
};

}  // namespace opengte
