#include "packing.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace opengte {
namespace {

float from_half(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16;
  const std::uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 0) return std::ldexp(static_cast<float>(mantissa), -24) * (sign ? -1.0f : 1.0f);
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return static_cast<std::uint16_t>(bits >> 16 | 64);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

std::size_t aligned(std::size_t n) { return (n + 63) / 64 * 64; }

// Symmetric 8-bit form of one output's weights; returns the scale.
float quantise_row(const float* x, int n, std::int8_t* q) {
  float most = 0.0f;
  for (int i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  if (!(most > 0.0f)) {
    std::memset(q, 0, static_cast<std::size_t>(n));
    return 0.0f;
  }
  const float factor = 127.0f / most;
  for (int i = 0; i < n; ++i) {
    q[i] = static_cast<std::int8_t>(std::clamp(std::nearbyint(x[i] * factor), -127.0f, 127.0f));
  }
  return most / 127.0f;
}

template <class T>
void scatter(const T* row, const PackedLinear& m, std::size_t place, std::uint8_t* to) {
  const int panel = m.layout.panel, group = m.layout.group;
  const std::size_t block = static_cast<std::size_t>(panel) * group;
  T* out = reinterpret_cast<T*>(to) + place / panel * m.steps() * block + place % panel * group;
  for (int k = 0; k < m.inputs; ++k) out[k / group * block + k % group] = row[k];
}

}  // namespace

void to_float(const void* x, Dtype dtype, std::size_t n, float* y) {
  if (dtype == Dtype::f32) {
    std::memcpy(y, x, n * sizeof(float));
    return;
  }
  const auto* h = static_cast<const std::uint16_t*>(x);
  for (std::size_t i = 0; i < n; ++i) {
    y[i] = dtype == Dtype::f16 ? from_half(h[i])
                               : std::bit_cast<float>(static_cast<std::uint32_t>(h[i]) << 16);
  }
}

int PackedLinear::panels() const {
  const int width = gated ? layout.panel / 2 : layout.panel;
  const int n = gated ? outputs / 2 : outputs;
  return (n + width - 1) / width;
}

std::size_t PackedLinear::weight_bytes() const {
  return aligned(static_cast<std::size_t>(panels()) * steps() * layout.panel * layout.group *
                 layout.element);
}

std::size_t PackedLinear::vector_bytes() const {
  return aligned(static_cast<std::size_t>(panels()) * layout.panel * sizeof(float));
}

std::size_t PackedLinear::input_bytes() const {
  return precision == Precision::int8 ? aligned(static_cast<std::size_t>(inputs) * sizeof(float)) : 0;
}

float* PackedLinear::vector(std::uint8_t* to, int i) const {
  return reinterpret_cast<float*>(to + weight_bytes() + i * vector_bytes());
}

float* PackedLinear::inputs_at(std::uint8_t* to, int i) const {
  return reinterpret_cast<float*>(to + weight_bytes() + 3 * vector_bytes() + i * input_bytes());
}

void PackedLinear::smooth(const float* centre, const float* spread, std::uint8_t* to) const {
  for (int k = 0; k < inputs; ++k) {
    inputs_at(to, 0)[k] = centre[k];
    inputs_at(to, 1)[k] = 1.0f / spread[k];
  }
}

std::size_t PackedLinear::place(int row) const {
  if (!gated) return row;
  const int half = layout.panel / 2, inner = outputs / 2;
  const int pair = row % inner;
  return static_cast<std::size_t>(pair / half) * layout.panel + pair % half +
         (row < inner ? 0 : half);
}

void PackedLinear::pack_weights(const void* rows, Dtype dtype, int first, int count,
                                std::uint8_t* to) const {
  std::vector<float> row(inputs);
  std::vector<std::int8_t> bytes(inputs);
  std::vector<std::uint16_t> halves(inputs);
  float* scale = vector(to, 0);
  float* sum = vector(to, 1);
  const bool smoothed = precision == Precision::int8 && inputs_at(to, 1)[0] != 0.0f;
  for (int r = 0; r < count; ++r) {
    const auto* source = static_cast<const std::uint8_t*>(rows) +
                         static_cast<std::size_t>(r) * inputs * dtype_bytes(dtype);
    to_float(source, dtype, inputs, row.data());
    const std::size_t at = place(first + r);
    if (precision == Precision::fp32) {
      scatter(row.data(), *this, at, to);
    } else if (precision == Precision::bf16) {
      for (int k = 0; k < inputs; ++k) halves[k] = to_bf16(row[k]);
      scatter(halves.data(), *this, at, to);
    } else {
      if (smoothed) {
        double moved = 0.0;
        for (int k = 0; k < inputs; ++k) {
          moved += double{row[k]} * inputs_at(to, 0)[k];
          row[k] /= inputs_at(to, 1)[k];
        }
        vector(to, 2)[at] += static_cast<float>(moved);
      }
      scale[at] = quantise_row(row.data(), inputs, bytes.data());
      std::int64_t total = 0;
      for (const std::int8_t q : bytes) total += q;
      sum[at] = scale[at] * static_cast<float>(total);
      scatter(bytes.data(), *this, at, to);
    }
  }
}

void PackedLinear::pack_bias(const void* values, Dtype dtype, int first, int count,
                             std::uint8_t* to) const {
  std::vector<float> bias(count);
  to_float(values, dtype, bias.size(), bias.data());
  float* out = vector(to, 2);  // may already hold a shift from smoothing
  for (int r = 0; r < count; ++r) out[place(first + r)] += bias[r];
}

Linear PackedLinear::view(const std::uint8_t* from) const {
  Linear linear;
  linear.precision = precision;
  linear.gated = gated;
  linear.outputs = gated ? outputs / 2 : outputs;
  linear.inputs = inputs;
  linear.panels = panels();
  linear.steps = steps();
  linear.weights = from;
  const auto* vectors = from + weight_bytes();
  linear.scale = reinterpret_cast<const float*>(vectors);
  linear.sum = reinterpret_cast<const float*>(vectors + vector_bytes());
  linear.bias = reinterpret_cast<const float*>(vectors + 2 * vector_bytes());
  if (precision != Precision::int8) return linear;
  const auto* smoothing = vectors + 3 * vector_bytes();
  const auto* factor = reinterpret_cast<const float*>(smoothing + input_bytes());
  if (factor[0] == 0.0f) return linear;
  linear.centre = reinterpret_cast<const float*>(smoothing);
  linear.factor = factor;
  return linear;
}

}  // namespace opengte
