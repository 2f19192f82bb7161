// Every kernel of every instruction-set level that this machine has, against plain scalar code, on
// random sizes. Needs no Python: it can be built for another processor and run under an emulator.
//
//   kernels_selftest [--seed N] [--rounds N] [--require LEVEL]...
//
// Prints what was compared, and exits 1 on a difference or when a required level is missing.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "kernels.hpp"
#include "packing.hpp"
#include "plain.hpp"

namespace opengte {
namespace {

using plain::Mask;
using plain::Random;
using Floats = std::vector<float>;

constexpr float untouched = -12345.0f;  // stands beside results: kernels must leave it there

constexpr Activation activations[] = {Activation::identity, Activation::gelu, Activation::gelu_tanh,
                                      Activation::silu,     Activation::relu, Activation::tanh};
constexpr const char* precision_names[] = {"fp32", "bf16", "int8"};

// Counts comparisons of one kernel and keeps the largest error, in units of what is allowed.
class Check {
 public:
  Check(const Kernels& k, std::string what) : name_(std::string(k.name) + " " + what) {}
  ~Check() {
    std::printf("%-28s %7ld values, largest error %.2f of the allowed%s\n", name_.c_str(), count_,
                worst_, failures_ ? "  FAILED" : "");
  }
  Check(const Check&) = delete;
  Check& operator=(const Check&) = delete;

  void near(double got, double wanted, double allowed, const std::string& where) {
    const double error = std::fabs(got - wanted) / allowed;
    count_ += 1;
    worst_ = std::max(worst_, error);
    if (!(error <= 1.0)) fail(got, wanted, where);  // also when not a number
  }
  void equal(double got, double wanted, const std::string& where) {
    count_ += 1;
    if (got != wanted) fail(got, wanted, where);
  }
  bool passed() const { return failures_ == 0; }

 private:
  void fail(double got, double wanted, const std::string& where) {
    if (++failures_ <= 5) {
      std::printf("%s, %s: got %.9g, expected %.9g\n", name_.c_str(), where.c_str(), got, wanted);
    }
  }

  std::string name_;
  long count_ = 0, failures_ = 0;
  double worst_ = 0.0;
};

// Memory as the engine hands it to kernels, 64-byte aligned: exactly what is needed, so that the
// sanitizer sees reads beyond it.
template <class T>
class Block {
 public:
  explicit Block(std::size_t n, T value = T())
      : data_(new (std::align_val_t{64}) T[n]), size_(n) {
    std::fill_n(data_.get(), n, value);
  }
  T* data() const { return data_.get(); }
  T& operator[](std::size_t i) const { return data_[i]; }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<T[], Free> data_;
  std::size_t size_;
};

std::string at(const char* what, int row, int column) {
  return std::string(what) + " row " + std::to_string(row) + " column " + std::to_string(column);
}

// --- matrix products ---

// A product's inputs as checkpoints and callers have them.
struct Problem {
  Precision precision;
  int rows, inputs, outputs;  // outputs of the checkpoint: gate and up rows of a gated one
  bool gated = false;
  bool narrow_input = false;  // activations come as bfloat16
  Floats x = {}, w = {}, bias = {};
  Floats centre = {}, spread = {};  // of the inputs, where int8 is smoothed

  int results() const { return gated ? outputs / 2 : outputs; }
  std::string text() const {
    return std::to_string(rows) + " x " + std::to_string(inputs) + " -> " +
           std::to_string(outputs) + (gated ? " gated" : "") + (narrow_input ? " narrow" : "") +
           (centre.empty() ? "" : " smoothed");
  }
};

Problem random_problem(Random& random, Precision precision) {
  Problem p{.precision = precision,
            .rows = random.between(1, 20),
            .inputs = random.between(1, 130),
            .outputs = 2 * random.between(1, 35),
            .gated = random.coin()};
  if (!p.gated && random.coin()) p.outputs -= 1;
  p.x = random.normals(static_cast<std::size_t>(p.rows) * p.inputs);
  p.w = random.normals(static_cast<std::size_t>(p.outputs) * p.inputs);
  p.bias = random.normals(p.outputs);
  if (precision != Precision::int8) return p;
  p.narrow_input = random.coin();
  if (p.narrow_input) {
    for (float& v : p.x) v = plain::rounded(v);
  }
  if (random.coin()) {
    p.centre = random.normals(p.inputs);
    p.spread = Floats(p.inputs);
    for (float& s : p.spread) s = 0.5f + static_cast<float>(random.unit());
  }
  return p;
}

// The problem in the form that a level multiplies.
class Prepared {
 public:
  Prepared(const Kernels& k, const Problem& p)
      : packed_{k.layouts[static_cast<int>(p.precision)], p.precision, p.gated, p.outputs,
                p.inputs},
        weights_(packed_.bytes()),
        stride_((static_cast<std::size_t>(packed_.steps()) * packed_.layout.group *
                     operand_bytes(packed_.layout.operand) + 63) / 64 * 64),
        rows_(p.rows * stride_), scale_(p.rows), low_(p.rows) {
    if (!p.centre.empty()) packed_.smooth(p.centre.data(), p.spread.data(), weights_.data());
    packed_.pack_weights(p.w.data(), Dtype::f32, 0, p.outputs, weights_.data());
    packed_.pack_bias(p.bias.data(), Dtype::f32, 0, p.outputs, weights_.data());
    linear_ = packed_.view(weights_.data());
    for (int r = 0; r < p.rows; ++r) put_row(k, p, r);
  }

  void multiply(const Kernels& k, int first_row, int last_row, int first_panel, int last_panel,
                Epilogue then) const {
    const Operand a{rows_.data() + first_row * stride_, static_cast<std::ptrdiff_t>(stride_),
                    scale_.data() + first_row, low_.data() + first_row};
    k.gemm({&linear_, a, last_row - first_row, first_panel, last_panel, then});
  }
  int panels() const { return linear_.panels; }

 private:
  void put_row(const Kernels& k, const Problem& p, int r) {
    const float* x = p.x.data() + static_cast<std::ptrdiff_t>(r) * p.inputs;
    std::uint8_t* to = rows_.data() + r * stride_;
    const OperandKind kind = packed_.layout.operand;
    if (kind == OperandKind::f32) {
      std::memcpy(to, x, p.inputs * sizeof(float));
    } else if (kind == OperandKind::bf16) {
      k.to_bf16(x, p.inputs, reinterpret_cast<std::uint16_t*>(to));
    } else {
      std::vector<std::uint16_t> narrow(p.inputs);
      std::transform(x, x + p.inputs, narrow.begin(), plain::to_bf16);
      const void* from = p.narrow_input ? static_cast<const void*>(narrow.data()) : x;
      k.quantise({from, p.narrow_input, &linear_, kind, to, scale_.data() + r, low_.data() + r});
    }
  }

  PackedLinear packed_;
  Block<std::uint8_t> weights_;
  std::size_t stride_;
  Block<std::uint8_t> rows_;
  Block<float> scale_, low_;
  Linear linear_;
};

// The operands after the rounding that a precision brings, and their products.
class Products {
 public:
  Products(const Kernels& k, const Problem& p) : p_(p), bias_(p.bias.begin(), p.bias.end()) {
    const bool rounds = k.layouts[static_cast<int>(p.precision)].operand == OperandKind::bf16;
    Floats w = p.w;
    for (int o = 0; o < p.outputs; ++o) {
      float* row = w.data() + static_cast<std::ptrdiff_t>(o) * p.inputs;
      smooth(row, o);
      w_.push_back(row_of(row, true, true));
    }
    Floats x = p.x;
    for (int r = 0; r < p.rows; ++r) {
      float* row = x.data() + static_cast<std::ptrdiff_t>(r) * p.inputs;
      for (int i = 0; i < p.inputs && !p.centre.empty(); ++i) {
        row[i] = (row[i] - p.centre[i]) * (1.0f / p.spread[i]);
      }
      x_.push_back(row_of(row, rounds, false));
    }
  }

  struct Sum {
    double value;
    double size;  // of its terms together: what rounding errors are relative to
  };
  Sum at(int row, int output) const {
    Sum s{bias_[output], std::fabs(bias_[output]) + 1.0};
    for (int i = 0; i < p_.inputs; ++i) {
      const double term = x_[row][i] * w_[output][i];
      s.value += term;
      s.size += std::fabs(term);
    }
    return s;
  }

 private:
  // Smoothing moves the inputs' centre into the bias and their spread into the weights.
  void smooth(float* row, int output) {
    for (int i = 0; i < p_.inputs && !p_.centre.empty(); ++i) {
      bias_[output] += double{row[i]} * p_.centre[i];
      row[i] /= 1.0f / p_.spread[i];
    }
  }
  std::vector<double> row_of(const float* x, bool rounds, bool weights) const {
    if (p_.precision == Precision::int8) {
      const auto through = weights ? plain::through_signed_bytes : plain::through_bytes;
      return through(x, p_.inputs);
    }
    std::vector<double> y(x, x + p_.inputs);
    if (p_.precision == Precision::bf16 && rounds) {
      std::transform(x, x + p_.inputs, y.begin(), plain::rounded);
    }
    return y;
  }

  const Problem& p_;
  std::vector<std::vector<double>> x_, w_;
  std::vector<double> bias_;
};

Epilogue random_epilogue(Random& random, bool gated) {
  Epilogue then;
  using Kind = Epilogue::Kind;
  then.kind = gated ? Kind::gate
                    : random.one_of({Kind::store, Kind::residual, Kind::activate, Kind::activate});
  if (then.kind == Kind::gate || then.kind == Kind::activate) {
    then.activation = activations[random.between(0, 5)];
    then.exact = random.coin();
  }
  then.to_bf16 = then.kind != Kind::residual && random.coin();
  return then;
}

struct Wanted {
  double value, allowed;
};

// What stands at (row, column) after the epilogue; `before`: what stood there.
Wanted finished(const Products& products, const Problem& p, const Epilogue& then, int row,
                int column, float before) {
  const auto sum = products.at(row, column);
  const double rounding = 2e-6 * sum.size;
  if (then.kind == Epilogue::residual) return {sum.value + before, rounding + 1e-6};
  Wanted y{plain::activate(sum.value, then.activation), 1.2 * rounding};
  if (then.activation != Activation::identity && then.activation != Activation::relu) {
    const bool coarse = !then.exact && then.activation == Activation::gelu;
    y.allowed += (coarse ? 6e-5 : 1e-6) * (1.0 + std::fabs(sum.value));
  }
  if (then.kind == Epilogue::gate) {
    const auto up = products.at(row, column + p.results());
    y.allowed = y.allowed * (std::fabs(up.value) + 1e-5) + std::fabs(y.value) * 2e-6 * up.size;
    y.value *= up.value;
  }
  y.allowed += 1e-6;
  if (then.to_bf16) y.allowed += std::fabs(y.value) / 256.0;
  return y;
}

// Results with room beside them, in float or bfloat16.
struct Output {
  int width;
  Block<float> wide;
  Block<std::uint16_t> narrow;

  Output(int rows, int columns)
      : width(columns + 3), wide(static_cast<std::size_t>(rows) * width, untouched),
        narrow(wide.size(), plain::to_bf16(untouched)) {}
  Epilogue into(Epilogue then) const {
    then.out = then.to_bf16 ? static_cast<void*>(narrow.data()) : wide.data();
    then.stride = width;
    return then;
  }
  float get(const Epilogue& then, int row, int column) const {
    const std::size_t i = static_cast<std::size_t>(row) * width + column;
    return then.to_bf16 ? plain::from_bf16(narrow[i]) : wide[i];
  }
};

void compare_product(const Kernels& k, Random& random, const Problem& p, Check& check) {
  const Prepared prepared(k, p);
  const Products products(k, p);
  const int n = p.results(), cut = random.between(0, prepared.panels());
  Output out(p.rows, n), apart(p.rows, n);
  const Epilogue then = random_epilogue(random, p.gated);
  Floats before(out.wide.size(), 0.0f);
  for (int r = 0; then.kind == Epilogue::residual && r < p.rows; ++r) {
    for (int c = 0; c < n; ++c) {
      const std::size_t i = static_cast<std::size_t>(r) * out.width + c;
      before[i] = out.wide[i] = apart.wide[i] = random.normal();
    }
  }
  const Epilogue together = out.into(then);
  prepared.multiply(k, 0, p.rows, 0, cut, together);
  prepared.multiply(k, 0, p.rows, cut, prepared.panels(), together);

  // in other company, a row must come out with the same bits
  const int split = random.between(0, p.rows);
  Epilogue part = apart.into(then);
  prepared.multiply(k, 0, split, 0, prepared.panels(), part);
  part.out = then.to_bf16 ? static_cast<void*>(apart.narrow.data() + split * apart.width)
                          : apart.wide.data() + split * apart.width;
  prepared.multiply(k, split, p.rows, 0, prepared.panels(), part);

  for (int r = 0; r < p.rows; ++r) {
    for (int c = 0; c < n; ++c) {
      const Wanted w = finished(products, p, then, r, c,
                                before[static_cast<std::size_t>(r) * out.width + c]);
      check.near(out.get(then, r, c), w.value, w.allowed, at(p.text().c_str(), r, c));
      check.equal(apart.get(then, r, c), out.get(then, r, c), "rows in other company");
    }
    for (int c = n; c < out.width; ++c) {
      check.equal(out.get(then, r, c), then.to_bf16 ? plain::rounded(untouched) : untouched,
                  at("beside the results,", r, c));
    }
  }
}

// Whole numbers survive quantisation as they are, and the sums fit a float: results must be exact.
// The first rows and outputs are as large as they can be, where narrow sums would overflow.
void compare_exact(const Kernels& k, Random& random, Check& check) {
  Problem p{.precision = Precision::int8,
            .rows = random.between(2, 20),
            .inputs = random.between(2, 300),
            .outputs = random.between(2, 50)};
  for (int r = 0; r < p.rows; ++r) {
    for (int i = 0; i < p.inputs; ++i) {
      p.x.push_back(i == 0 ? 0.0f : i == 1 || r == 0 ? 255.0f : random.between(0, 255));
    }
  }
  for (int o = 0; o < p.outputs; ++o) {
    for (int i = 0; i < p.inputs; ++i) {
      const float sign = o == 1 ? -1.0f : 1.0f;
      p.w.push_back(i == 0 || o < 2 ? sign * 127.0f : random.between(-127, 127));
    }
    p.bias.push_back(random.between(-100, 100));
  }
  const Prepared prepared(k, p);
  Output out(p.rows, p.outputs);
  prepared.multiply(k, 0, p.rows, 0, prepared.panels(), out.into({}));
  for (int r = 0; r < p.rows; ++r) {
    for (int o = 0; o < p.outputs; ++o) {
      long sum = static_cast<long>(p.bias[o]);
      for (int i = 0; i < p.inputs; ++i) {
        sum += static_cast<long>(p.x[r * p.inputs + i]) * static_cast<long>(p.w[o * p.inputs + i]);
      }
      check.equal(out.get({}, r, o), static_cast<double>(sum), at(p.text().c_str(), r, o));
    }
  }
}

bool test_products(const Kernels& k, Random& random, int rounds) {
  bool passed = true;
  for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::int8}) {
    Check check(k, std::string("product ") + precision_names[static_cast<int>(precision)]);
    for (int i = 0; i < 6 * rounds; ++i) {
      compare_product(k, random, random_problem(random, precision), check);
    }
    passed &= check.passed();
  }
  Check exact(k, "product int8, exact");
  for (int i = 0; i < 4 * rounds; ++i) compare_exact(k, random, exact);
  return passed & exact.passed();
}

// --- attention ---

const char* name(AttentionKind kind) {
  return kind == AttentionKind::f32 ? "fp32" : kind == AttentionKind::bf16 ? "bf16" : "int8";
}

struct AttentionCase {
  bool narrow() const { return kind != AttentionKind::f32; }

  AttentionKind kind;
  int length, width, first, last;
  Mask mask;
  bool in_place;
  bool sharp;  // scores so far apart that the weights of most keys vanish

  std::string text() const {
    return std::string(name(kind)) + " length " + std::to_string(length) +
           " width " + std::to_string(width) + (mask.causal ? " causal" : "") + " window " +
           std::to_string(mask.window) + " rows from " + std::to_string(first) +
           (sharp ? " sharp" : "");
  }
};

AttentionCase random_attention(AttentionKind kind, Random& random) {
  AttentionCase c{};
  c.kind = kind;
  c.length =
      random.one_of({random.between(1, 40), random.between(1, 100), random.between(240, 300),
                            random.between(500, 540)});
  c.width = random.one_of({32, 64, random.between(1, 40), random.between(40, 100)});
  if (c.narrow()) c.width += c.width % 2;
  c.first = random.coin() ? 0 : random.between(0, c.length - 1);
  c.last = std::min(c.length, c.first + random.between(1, 30));
  c.mask = {random.coin(), random.one_of({-1, -1, 0, 1, 5, 64, 200})};
  c.in_place = random.coin();
  c.sharp = random.between(0, 3) == 0;
  return c;
}

// T: std::uint16_t for bfloat16, or float.
template <class T>
T stored(float x) {
  if constexpr (sizeof(T) == 2) return plain::to_bf16(x);
  else return x;
}
float loaded(float x) { return x; }
float loaded(std::uint16_t x) { return plain::from_bf16(x); }

// Runs one case; returns the rows [first, last).
template <class T>
Floats run_attention(const Kernels& k, const AttentionCase& c, const Floats (&qkv)[3]) {
  const std::ptrdiff_t stride = 3 * c.width + 2;  // q, k and v of a token lie side by side
  Block<T> state(c.length * stride, stored<T>(0.25f));
  for (int t = 0; t < c.length; ++t) {
    for (int i = 0; i < 3 * c.width; ++i) {
      state[t * stride + i] = stored<T>(qkv[i / c.width][t * c.width + i % c.width]);
    }
  }
  Block<T> keys(k.keys_bytes(c.kind, c.length, c.width) / sizeof(T), stored<T>(NAN));
  Block<T> values(k.values_bytes(c.kind, c.length, c.width) / sizeof(T), stored<T>(NAN));
  Block<float> scratch(k.attend_scratch(c.kind, c.width), NAN);
  k.pack_keys(c.kind, state.data() + c.width, stride, c.length, c.width, keys.data());
  k.pack_values(c.kind, state.data() + 2 * c.width, stride, c.length, c.width, values.data());
  Block<T> apart(c.length * stride);
  T* q = state.data() + c.first * stride;
  T* out = c.in_place ? q : apart.data() + c.first * stride;
  AttendArgs args{};
  args.q = q, args.q_stride = stride;
  args.first = c.first, args.last = c.last;
  args.keys = keys.data(), args.values = values.data();
  args.length = c.length, args.head_dim = c.width;
  args.scale = 1.0f / std::sqrt(static_cast<float>(c.width));
  args.causal = c.mask.causal, args.window = c.mask.window;
  args.out = out, args.out_stride = stride;
  args.scratch = scratch.data();
  k.attend(c.kind, args);
  Floats result;
  for (int r = 0; r < c.last - c.first; ++r) {
    for (int i = 0; i < c.width; ++i) result.push_back(loaded(out[r * stride + i]));
  }
  return result;
}

// What attention in bytes multiplies: queries rounded row by row, keys less their mean row by row,
// values column by column around the middle.
void through_bytes(const AttentionCase& c, Floats (&qkv)[3]) {
  const int n = c.length, d = c.width;
  Floats column(n);
  for (int i = 0; i < d; ++i) {
    double mean = 0.0;
    for (int j = 0; j < n; ++j) mean += qkv[1][j * d + i];
    for (int j = 0; j < n; ++j) qkv[1][j * d + i] -= static_cast<float>(mean / n);
    for (int j = 0; j < n; ++j) column[j] = qkv[2][j * d + i];
    const auto [low, high] = std::minmax_element(column.begin(), column.end());
    const float middle = 0.5f * (*low + *high);
    for (float& x : column) x -= middle;
    const auto rounded = plain::through_signed_bytes(column.data(), n);
    for (int j = 0; j < n; ++j) qkv[2][j * d + i] = static_cast<float>(rounded[j] + middle);
  }
  for (int which = 0; which < 2; ++which) {
    for (int j = 0; j < n; ++j) {
      const auto rounded = plain::through_signed_bytes(&qkv[which][j * d], d);
      std::copy(rounded.begin(), rounded.end(), &qkv[which][j * d]);
    }
  }
}

void compare_attention(const Kernels& k, Random& random, AttentionKind kind, Check& check) {
  const AttentionCase c = random_attention(kind, random);
  Floats qkv[3];
  for (Floats& x : qkv) {
    x = random.normals(static_cast<std::size_t>(c.length) * c.width);
    for (float& v : x) v *= c.sharp && &x == &qkv[0] ? 64.0f : 1.0f;
    if (c.narrow()) std::transform(x.begin(), x.end(), x.begin(), plain::rounded);
  }
  const Floats got =
      c.narrow() ? run_attention<std::uint16_t>(k, c, qkv) : run_attention<float>(k, c, qkv);
  if (kind == AttentionKind::int8) through_bytes(c, qkv);
  // softmax weights and results are rounded too
  const double allowed = c.narrow() ? 0.02 : c.sharp ? 2e-4 : 5e-6;
  for (int r = c.first; r < c.last; ++r) {
    const auto wanted = plain::attend(qkv[0], qkv[1], qkv[2], r, c.length, c.width,
                                      1.0 / std::sqrt(c.width), c.mask);
    for (int i = 0; i < c.width; ++i) {
      check.near(got[(r - c.first) * c.width + i], wanted[i], allowed, at(c.text().c_str(), r, i));
    }
  }
}

bool test_attention(const Kernels& k, Random& random, int rounds) {
  bool passed = true;
  using enum AttentionKind;
  for (const AttentionKind kind : {f32, bf16, int8}) {
    if (kind == bf16 && !k.attention_bf16) continue;
    if (kind == int8 && !k.attention_int8) continue;
    const std::string title = std::string("attention ") + name(kind);
    Check check(k, title.c_str());
    for (int i = 0; i < 4 * rounds; ++i) compare_attention(k, random, kind, check);
    passed &= check.passed();
  }
  return passed;
}

// --- rows ---

// A row in memory of exactly its size.
Block<float> block_of(const Floats& x) {
  Block<float> b(x.size());
  std::copy(x.begin(), x.end(), b.data());
  return b;
}

bool test_norms(const Kernels& k, Random& random, int rounds) {
  Check check(k, "norm");
  for (int round = 0; round < 4 * rounds; ++round) {
    const int n = random.between(2, 200);
    const bool rms = random.coin(), shifted = random.coin();
    const auto x = block_of(random.normals(n)), weight = block_of(random.normals(n)),
               bias = block_of(random.normals(n));
    Block<float> y(n);
    k.norm(x.data(), y.data(), {weight.data(), shifted ? bias.data() : nullptr, 1e-6f, rms, n});
    double mean = 0.0, square = 0.0;
    for (int i = 0; i < n && !rms; ++i) mean += double{x[i]} / n;
    for (int i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean) / n;
    const double inverse = 1.0 / std::sqrt(square + 1e-6);
    for (int i = 0; i < n; ++i) {
      const double wanted = (x[i] - mean) * inverse * weight[i] + (shifted ? bias[i] : 0.0f);
      check.near(y[i], wanted, 2e-5 * (1.0 + std::fabs(wanted)), at("width", n, i));
    }
  }
  return check.passed();
}

bool test_sums(const Kernels& k, Random& random, int rounds) {
  Check check(k, "add, scale, rotate");
  for (int round = 0; round < 4 * rounds; ++round) {
    const int n = random.between(1, 100);
    const Floats a = random.normals(2 * n), b = random.normals(2 * n);
    const auto x = block_of(a), y = block_of(a), z = block_of(a), by = block_of(b);
    k.add(x.data(), by.data(), 2 * n);
    k.scale(y.data(), 0.3f, 2 * n);
    k.rotate(z.data(), by.data(), by.data() + n, n);
    for (int i = 0; i < 2 * n; ++i) {
      const int at_half = i % n;
      const double c = b[at_half], s = b[n + at_half], low = a[at_half], high = a[n + at_half];
      check.equal(x[i], a[i] + b[i], at("add", n, i));
      check.equal(y[i], a[i] * 0.3f, at("scale", n, i));
      check.near(z[i], i < n ? low * c - high * s : high * c + low * s, 4e-6, at("rotate", n, i));
    }
  }
  return check.passed();
}

bool test_activations(const Kernels& k) {
  Check check(k, "activations");
  for (const Activation a : activations) {
    const int n = 403;  // not a multiple of any vector
    Block<float> x(n), y(n);
    for (int i = 0; i < n; ++i) x[i] = y[i] = static_cast<float>(i - 200) * 0.05f;
    y[0] = x[0] = -1e30f, y[1] = x[1] = -300.0f, y[n - 1] = x[n - 1] = 300.0f;
    k.activate(y.data(), n, a);
    for (int i = 0; i < n; ++i) {
      const double wanted = plain::activate(x[i], a);
      const double allowed = x[i] < -20.0f && a != Activation::identity ? 1e-3 : 1e-6;
      const std::string where = at("kind", static_cast<int>(a), i);
      check.near(y[i], wanted, allowed * (1.0 + std::fabs(wanted)), where);
    }
  }
  return check.passed();
}

bool test_conversions(const Kernels& k, Random& random, int rounds) {
  Check check(k, "bfloat16");
  for (int round = 0; round < 2 * rounds; ++round) {
    const int n = random.between(1, 100);
    Block<float> x(n), back(n);
    Block<std::uint16_t> y(n);
    for (int i = 0; i < n; ++i) {
      // halfway cases as often as others, over the range of normal numbers
      std::uint32_t bits = random.word();
      if (random.coin()) bits = (bits & 0xFFFF0000u) | 0x8000u;
      const auto exponent = static_cast<std::uint32_t>(random.between(1, 253));
      x[i] = std::bit_cast<float>((bits & 0x807FFFFFu) | exponent << 23);
    }
    x[0] = random.coin() ? 0.0f : -0.0f;
    k.to_bf16(x.data(), n, y.data());
    k.from_bf16(y.data(), n, back.data());
    for (int i = 0; i < n; ++i) {
      check.equal(y[i], plain::to_bf16(x[i]), at("to", n, i));
      check.equal(back[i], plain::from_bf16(y[i]), at("from", n, i));
    }
  }
  return check.passed();
}

// Rows of all sizes are quantised within their bytes; a constant row comes back as it was. What the
// bytes stand for is the level's own affair, which the products show.
bool test_quantise(const Kernels& k, Random& random, int rounds) {
  Check check(k, "quantise");
  const OperandKind kind = k.layouts[static_cast<int>(Precision::int8)].operand;
  const std::size_t item = operand_bytes(kind);
  for (int round = 0; round < 4 * rounds; ++round) {
    Linear linear;
    linear.inputs = random.between(1, 100);
    const bool constant = random.coin();
    const auto x = block_of(constant ? Floats(linear.inputs, 0.7f) : random.normals(linear.inputs));
    Block<std::uint8_t> q(linear.inputs * item + 16, 99);
    float scale = NAN, low = NAN;
    k.quantise({x.data(), false, &linear, kind, q.data(), &scale, &low});
    const auto [least, most] = std::minmax_element(x.data(), x.data() + linear.inputs);
    check.near(scale, (double{*most} - *least) / 255.0, 1e-8, "scale");
    if (*least == *most) check.equal(low, *least, "a constant row");
    for (std::size_t i = linear.inputs * item; i < q.size(); ++i) {
      check.equal(q[i], 99, "beyond the row");
    }
  }
  return check.passed();
}

bool test_level(const Kernels& k, std::uint64_t seed, int rounds) {
  Random random(seed);
  bool passed = test_products(k, random, rounds);
  passed &= test_attention(k, random, rounds);
  passed &= test_norms(k, random, rounds);
  passed &= test_sums(k, random, rounds);
  passed &= test_activations(k);
  passed &= test_conversions(k, random, rounds);
  passed &= test_quantise(k, random, rounds);
  return passed;
}

struct Options {
  std::uint64_t seed = 1;
  int rounds = 10;
  std::vector<std::string> required;
};

Options options_of(int count, char** words) {
  Options options;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view name = words[i];
    if (name == "--seed") options.seed = std::strtoull(words[i + 1], nullptr, 10);
    else if (name == "--rounds") options.rounds = std::atoi(words[i + 1]);
    else if (name == "--require") options.required.emplace_back(words[i + 1]);
  }
  return options;
}

int run(const Options& options) {
  struct Level {
    const char* name;
    const Kernels* kernels;
  };
  const Level levels[] = {{"amx", kernels_amx()},
                          {"avx512", kernels_avx512()},
                          {"avx2", kernels_avx2()},
                          {"neon_i8mm", kernels_neon_i8mm()},
                          {"neon", kernels_neon()},
                          {"portable", kernels_portable()}};
  bool passed = true;
  for (const Level& level : levels) {
    const bool required = std::find(options.required.begin(), options.required.end(), level.name) !=
                          options.required.end();
    if (level.kernels == nullptr) {
      std::printf("%s: not on this machine%s\n", level.name, required ? "  FAILED" : "");
      passed &= !required;
    } else {
      passed &= test_level(*level.kernels, options.seed, options.rounds);
    }
  }
  std::printf(passed ? "all passed\n" : "FAILED\n");
  return passed ? 0 : 1;
}

}  // namespace
}  // namespace opengte

int main(int count, char** words) { return opengte::run(opengte::options_of(count, words)); }
