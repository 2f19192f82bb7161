// The table of kernels that one instruction-set level provides, and the records they work on.
//
// Everything above this header is compiled once for the baseline processor; everything below it is
// compiled once per level, in a translation unit with its own flags (isa_*.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace opengte {

enum class Precision : int { fp32 = 0, bf16 = 1, int8 = 2 };
// The form that attention multiplies in. Queries, keys and values are kept as floats for the first,
// as bfloat16 for the others.
enum class AttentionKind : int { f32 = 0, bf16, int8 };
enum class Activation : int { identity = 0, gelu, gelu_tanh, silu, relu, tanh };

// What the GEMM of a precision reads as its left operand.
enum class OperandKind : int {
  f32,   // float rows, used where they lie
  bf16,  // bfloat16 rows, used where they lie
  u8,    // asymmetric 8 bits, one scale and one lowest value per row
  s16,   // the same values widened to 16 bits, for processors without byte dot products
};

constexpr std::size_t operand_bytes(OperandKind kind) {
  return kind == OperandKind::f32 ? 4 : kind == OperandKind::u8 ? 1 : 2;
}

// How packed weights lie in memory: panels of `panel` outputs; inside a panel, groups of `group`
// inputs, each group holding all outputs of the panel. One dot-product instruction reads one group.
struct Layout {
  int panel;
  int group;
  int element;  // bytes of a weight
  OperandKind operand;
};

// A packed matrix of `outputs` rows and `inputs` columns. With `gated`, a panel holds half a panel
// of gate rows, then the up rows that belong to them, and `outputs` counts the pairs.
struct Linear {
  Precision precision = Precision::fp32;
  bool gated = false;
  int outputs = 0, inputs = 0;
  int panels = 0, steps = 0;            // steps = groups along the inputs
  const std::uint8_t* weights = nullptr;
  const float* scale = nullptr;         // int8: per output
  const float* sum = nullptr;           // int8: scale * sum of the output's quantised weights
  const float* bias = nullptr;          // zeros where the layer has none
  // int8: inputs are quantised as (x - centre) * factor, for which weights and bias compensate;
  // null: as they are
  const float* centre = nullptr;
  const float* factor = nullptr;
};

// Rows of activations. `stride` in bytes; scale and low only for the quantised kinds, where a value
// is q * scale + low.
struct Operand {
  const void* data;
  std::ptrdiff_t stride;
  const float* scale;
  const float* low;
};

// What happens to a product before it is stored. `gate` needs a gated Linear.
struct Epilogue {
  enum Kind : int { store, residual, activate, gate } kind = store;
  Activation activation = Activation::identity;
  bool exact = true;    // full-precision activations; otherwise to about bfloat16's precision
  bool to_bf16 = false; // out holds bfloat16 instead of float
  void* out = nullptr;
  std::ptrdiff_t stride = 0;  // elements
};

struct GemmArgs {
  const Linear* linear;
  Operand a;
  int rows;
  int first_panel, last_panel;
  Epilogue then;
};

struct NormArgs {
  const float* weight;
  const float* bias;  // null: none
  float eps;
  bool rms;
  int width;
};

// One row of `linear`'s inputs -> 8 bits, in the layout's kind.
struct QuantiseArgs {
  const void* x;
  bool bf16;  // x holds bfloat16 instead of float
  const Linear* linear;
  OperandKind kind;
  void* q;
  float* scale;
  float* low;
};

// Attention of some query rows of one head over one sequence's packed keys and values.
struct AttendArgs {
  const void* q;              // first row of this head
  std::ptrdiff_t q_stride;    // elements
  int first, last;            // query rows, by their position in the sequence
  const void* keys;           // as pack_keys left them
  const void* values;
  int length;                 // keys in the sequence
  int head_dim;
  float scale;                // of the scores
  // added to a scaled score, divided by `scale`: of distance 0, keys after the query follow; null:
  // nothing. Not for bytes.
  const float* bias;
  bool causal;
  int window;                 // tokens to either side; negative: all
  void* out;                  // as q: row `first` of this head; may be q itself
  std::ptrdiff_t out_stride;  // elements
  float* scratch;             // attend_scratch(kind, head_dim) floats, 64-byte aligned
};

// The document tokens `tokens` of one document against all query tokens.
struct MaxSimArgs {
  const void* query;         // panels of query tokens, packed like the weights of a product
  const std::int32_t* sums;  // of the bytes of each query token; only for bytes
  int panels, steps, dims;
  const void* tokens;  // rows of floats, of bfloat16 or of signed bytes
  const float* scales;  // of the rows; null: 1
  int count;
  float* best;    // of each query token of the panels: raised to the highest product
  void* scratch;  // query_rows * (2 * lanes * 4 + steps * group * 4) bytes, 64-byte aligned
};

struct Kernels {
  const char* name;
  int lanes;                    // floats in a vector
  Layout layouts[3];            // by Precision
  bool attention_bf16;          // whether there are the kinds of attention
  bool attention_int8;
  int query_rows;               // query rows that attention takes at a time

  void (*gemm)(const GemmArgs&);
  void (*norm)(const float* x, float* y, const NormArgs&);
  void (*add)(float* x, const float* y, int n);                 // x += y
  void (*scale)(float* x, float factor, int n);
  void (*activate)(float* x, int n, Activation);
  void (*quantise)(const QuantiseArgs&);
  void (*to_bf16)(const float* x, int n, std::uint16_t* y);
  void (*from_bf16)(const std::uint16_t* x, int n, float* y);
  void (*rotate)(float* x, const float* cosine, const float* sine, int half);
  // keys and values of one head; `to` is 64-byte aligned, stride in elements
  std::size_t (*keys_bytes)(AttentionKind, int length, int head_dim);
  std::size_t (*values_bytes)(AttentionKind, int length, int head_dim);
  void (*pack_keys)(AttentionKind, const void* k, std::ptrdiff_t stride, int length, int head_dim, void* to);
  void (*pack_values)(AttentionKind, const void* v, std::ptrdiff_t stride, int length, int head_dim, void* to);
  std::size_t (*attend_scratch)(AttentionKind, int head_dim);
  void (*attend)(AttentionKind, const AttendArgs&);
  void (*maxsim)(Precision, const MaxSimArgs&);
};

// Null if the build or the CPU does not have the level.
const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_amx();        // AVX-512 with matrix tiles
const Kernels* kernels_neon();       // AArch64 with dot products
const Kernels* kernels_neon_i8mm();  // and with 8-bit and bfloat16 matrix products

}  // namespace opengte
