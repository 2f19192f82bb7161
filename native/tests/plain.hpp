// The kernels in plain scalar code, in double precision: the oracle of the tests.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels.hpp"

namespace opengte::plain {

// The same numbers everywhere: the standard's distributions differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : bits_(seed) {}
  double unit() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }
  int between(int low, int high) { return low + static_cast<int>(unit() * (high - low + 1)); }
  std::uint32_t word() { return static_cast<std::uint32_t>(bits_() >> 32); }
  bool coin() { return between(0, 1) == 1; }
  float normal() {
    double sum = 0.0;
    for (int i = 0; i < 12; ++i) sum += unit();
    return static_cast<float>(sum - 6.0);
  }
  std::vector<float> normals(std::size_t n) {
    std::vector<float> x(n);
    for (float& v : x) v = normal();
    return x;
  }
  template <class T>
  T one_of(std::initializer_list<T> from) {
    return from.begin()[between(0, static_cast<int>(from.size()) - 1)];
  }

 private:
  std::mt19937_64 bits_;
};

inline std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float from_bf16(std::uint16_t x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}
inline float rounded(float x) { return from_bf16(to_bf16(x)); }

inline double activate(double x, Activation a) {
  switch (a) {
    case Activation::gelu: return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1.0 + std::exp(-x));
    case Activation::relu: return std::max(x, 0.0);
    case Activation::tanh: return std::tanh(x);
    case Activation::identity: break;
  }
  return x;
}

// A row of activations after asymmetric rounding to 8 bits.
inline std::vector<double> through_bytes(const float* x, int n) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const float range = *high - *low;
  const float factor = range > 0.0f ? 255.0f / range : 0.0f;
  const double scale = range * (1.0f / 255.0f);
  std::vector<double> y(n);
  for (int i = 0; i < n; ++i) {
    const float q = std::clamp((x[i] - *low) * factor, 0.0f, 255.0f);
    y[i] = std::nearbyint(q) * scale + *low;
  }
  return y;
}

// A row of weights after symmetric rounding to 8 bits.
inline std::vector<double> through_signed_bytes(const float* x, int n) {
  float top = 0.0f;
  for (int i = 0; i < n; ++i) top = std::max(top, std::fabs(x[i]));
  const float factor = top > 0.0f ? 127.0f / top : 0.0f;
  const double scale = top / 127.0f;
  std::vector<double> y(n);
  for (int i = 0; i < n; ++i) {
    y[i] = std::clamp(std::nearbyint(x[i] * factor), -127.0f, 127.0f) * scale;
  }
  return y;
}

struct Mask {
  bool causal;
  int window;
  bool sees(int query, int key) const {
    return (!causal || key <= query) && (window < 0 || std::abs(query - key) <= window);
  }
};

// One row of attention, for the query in row `row`; q, k and v have `width` columns.
inline std::vector<double> attend(const std::vector<float>& q, const std::vector<float>& k,
                                  const std::vector<float>& v, int row, int length, int width,
                                  double scale, Mask mask) {
  std::vector<double> score(length, -std::numeric_limits<double>::infinity());
  double top = score[0];
  for (int j = 0; j < length; ++j) {
    if (!mask.sees(row, j)) continue;
    double s = 0.0;
    for (int c = 0; c < width; ++c) s += double{q[row * width + c]} * k[j * width + c];
    score[j] = s * scale;
    top = std::max(top, score[j]);
  }
  std::vector<double> sum(width);
  double total = 0.0;
  for (int j = 0; j < length; ++j) {
    const double w = std::exp(score[j] - top);
    total += w;
    for (int c = 0; c < width; ++c) sum[c] += w * v[j * width + c];
  }
  for (double& s : sum) s /= total;
  return sum;
}

}  // namespace opengte::plain
