// The forward pass of one micro-batch of whole sequences, run by one thread or by a team.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "model.hpp"
#include "threads.hpp"

namespace opengte {

// Flat token ids and the start of each sequence, from the caller.
struct Batch {
  const std::int32_t* ids = nullptr;
  const std::int32_t* starts = nullptr;  // sequences + 1
  const std::int32_t* types = nullptr;
  const std::int32_t* pool_from = nullptr;
  const std::int32_t* attended = nullptr;  // leading tokens that are keys; null: all of them
  int sequences = 0;

  int tokens() const { return starts[sequences]; }
  int length(int i) const { return starts[i + 1] - starts[i]; }
  int keys(int i) const { return attended == nullptr ? length(i) : attended[i]; }
};

// The arrays for results of the whole batch; null for an output that was not requested.
struct Outputs {
  float* dense = nullptr;
  float* sparse = nullptr;
  float* tokens = nullptr;
  float* states = nullptr;
  float* score = nullptr;
};

// Sequences [first, last) of a batch.
struct MicroBatch {
  int first, last;
};

// Cosines and sines by position, half a head each.
struct RopeTable {
  std::vector<float> cosine, sine;
  int half = 0, positions = 0;
  void grow(const Rope& rope, int to);
};

// Keys and values that the latent pool attends to: the same for every text.
struct LatentKeys {
  Buffer keys, values;  // per head, one after the other
  std::size_t key_bytes = 0, value_bytes = 0;
};

struct Context {
  const Model* model;
  const Kernels* kernels;
  const std::vector<RopeTable>* ropes;
  const LatentKeys* latent;
  bool narrow;          // queries, keys and values are stored as bfloat16, not float
  bool attention_int8;  // attention multiplies bytes

  std::size_t state_bytes() const { return narrow ? 2 : 4; }
  AttentionKind attention() const { return narrow ? AttentionKind::bf16 : AttentionKind::f32; }
  AttentionKind attention(const Layer& layer) const {
    const bool bytes = attention_int8 && layer.qkv.precision == Precision::int8 &&
                       model->position_bias.values.empty();
    return bytes ? AttentionKind::int8 : attention();
  }
};

// Activations of one micro-batch.
struct Activations {
  Buffer x;       // tokens x width: the residual stream
  Buffer mixed;   // tokens x width: the mean of the states of several layers
  Buffer qkv;     // tokens x widest qkv, floats or bfloat16; attention leaves its result in q's place
  Buffer keys, values;  // packed, only when a long sequence is shared by a team
  Buffer pooled, hidden;  // sequences x width

  void reserve(const Context& c, const Batch& batch, const MicroBatch& micro, const Outputs& out,
               bool shared);
  std::size_t bytes() const;
  void release();
};

// Scratch memory for a block of rows and for a tile of attention.
struct Scratch {
  Buffer normed, operand, scale, low, wide;
  Buffer attention, keys, values;

  // longest: of the sequences that one thread attends to alone
  void reserve(const Context& c, int longest);
  std::size_t bytes() const;
};

// Rows that go through the feed-forward at a time, so that its inner activations stay in cache.
int block_rows(const Model& model);
// All threads of a team share the attention of sequences longer than this.
inline constexpr int long_sequence = 1024;

// Runs a micro-batch. Every thread of a team calls it with the same arguments; `own` is the thread's
// scratch memory, `common` is shared.
void run_micro_batch(const Context& c, const Batch& batch, const MicroBatch& micro,
                     const Outputs& out, Activations& acts, Scratch& own, Scratch& common,
                     Crew crew);

// Computes what LatentKeys holds.
void prepare_latent(Context& c, LatentKeys& to);

}  // namespace opengte
