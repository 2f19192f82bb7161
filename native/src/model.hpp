// A plan with its prepared weights: what the forward pass interprets. It does not own the weights;
// its creator keeps the buffers alive.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "packing.hpp"

namespace opengte {

enum class Pooling : int { none = 0, cls, mean, last, latent, max, mean_sqrt, weighted };

struct Norm {
  bool present = false;
  NormArgs args{};
};

// Angular frequencies of one rotary embedding; the engine keeps the tables. `magnitude` multiplies
// sines and cosines.
struct Rope {
  std::vector<float> inverse;
  float magnitude = 1.0f;
};

// What is added to attention scores by the distance of a key from its query, the same in all
// layers: for each head, distances from 1 - positions to positions - 1, then padding that is read
// but never used. Empty: nothing.
struct PositionBias {
  static constexpr int padding = 64;
  std::vector<float> values;
  int positions = 0;

  int stride() const { return 2 * positions - 1 + padding; }
  // Of distance 0.
  const float* centre(int head) const {
    return values.empty() ? nullptr
                          : values.data() + static_cast<std::ptrdiff_t>(head) * stride() + positions - 1;
  }
};

struct Embedding {
  int vocabulary = 0, width = 0;
  int positions = 0, position_offset = 0, types = 0;
  const void* word = nullptr;
  Dtype word_dtype = Dtype::f32;
  const float* position = nullptr;
  const float* type = nullptr;
  float scale = 1.0f;  // of word vectors
  Norm norm;
  Linear projection;  // to the width of states; without outputs, they have the same width
};

struct Layer {
  bool post_norm = true;
  Norm attention_norm, ffn_norm, q_norm, k_norm;
  Norm attention_out_norm, ffn_out_norm;  // of what is added to the residual stream
  Linear qkv, out, up, down;
  int heads = 0, kv_heads = 0, head_dim = 0;
  float score_scale = 1.0f;
  bool causal = false;
  int window = -1;
  int rope = -1;  // index into Model::ropes
  bool log_n = false, log_n_at_least_one = false;
  float log_n_trained = 0.0f;
  int inner = 0;
  Activation activation = Activation::gelu;

  int qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
  bool touches_queries() const { return rope >= 0 || q_norm.present || log_n; }
};

struct Latent {
  bool present = false;
  int latents = 0, heads = 0, head_dim = 0, inner = 0;
  Norm query_norm, context_norm, ffn_norm;
  Linear q, kv, out, up, down;
  const float* latent_rows = nullptr;
  int latent_width = 0;
};

// act(linear(x)), plus x, or its projection by `shortcut`, if residual.
struct Dense {
  Linear linear;
  Activation activation = Activation::identity;
  bool residual = false, has_shortcut = false;
  Linear shortcut;
};

// What happens to a pooled vector: a projection, a norm, or scaling to unit length.
struct Step {
  enum Kind { dense, norm, unit } kind = dense;
  Dense projection;
  Norm scale;
};

// The states that are pooled: a mean of those before and after the layers from `start`, 0 being the
// embedding, with one weight each. Without weights, the states after the last layer.
struct LayerMix {
  int start = 0;
  std::vector<float> weights;
};

struct Score {
  bool present = false;
  Pooling pooling = Pooling::cls;
  bool has_dense = false;
  Dense dense;
  Norm norm;
  Linear out;
  bool probability = false;  // of the first output, instead of its logit
  bool every = false;        // all logits, instead of the first one

  int width() const { return every ? out.outputs : 1; }
};

struct Model {
  Precision precision = Precision::fp32;
  Embedding embedding;
  std::vector<Layer> layers;
  std::vector<Rope> ropes;
  PositionBias position_bias;
  Norm final_norm;
  LayerMix layer_mix;
  std::vector<Pooling> poolings;  // whose results are put end to end
  Latent latent;
  std::vector<Step> steps;
  bool sparse = false;
  Linear sparse_head;
  int token_width = 0;            // of late-interaction vectors; 0: none
  std::vector<Dense> token_head;  // none: they are the states themselves
  Score score;

  int width() const {
    return embedding.projection.outputs > 0 ? embedding.projection.outputs : embedding.width;
  }
  int pooled_width() const { return static_cast<int>(poolings.size()) * width(); }
  int dimension() const {
    int found = pooled_width();
    for (const Step& step : steps) {
      if (step.kind == Step::dense) found = step.projection.linear.outputs;
    }
    return found;
  }
};

}  // namespace opengte
