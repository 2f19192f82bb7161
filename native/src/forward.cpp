#include "forward.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace opengte {
namespace {

// Whether only pooled word vectors are wanted: then no state of a token is kept.
bool is_bag(const Model& m, const Outputs& out) {
  const bool pooled = out.dense != nullptr && out.states == nullptr && out.sparse == nullptr &&
                      out.tokens == nullptr && out.score == nullptr;
  return pooled && m.layers.empty() && m.layer_mix.weights.empty() && !m.final_norm.present &&
         !m.latent.present && m.embedding.projection.outputs == 0;
}

constexpr int panels_at_a_time = 2;  // a member's share of a product between two reads of the counter
constexpr int query_block = 96;      // query rows at a time, and between two checks of the stop flag
constexpr int latent_block = 32;
constexpr std::size_t packed_bytes = 8 << 20;  // keys and values of a long sequence at a time

int ceil_div(int a, int b) { return (a + b - 1) / b; }

std::size_t pad64(std::size_t n) { return (n + 63) / 64 * 64; }

struct Range {
  int first, count;
};

// Memory for keys and values of a long sequence: bytes per head, and heads at a time.
struct PackedHeads {
  std::size_t keys, values;
  int count;

  PackedHeads(const Context& c, const Layer& layer, int length)
      : keys(pad64(c.kernels->keys_bytes(c.attention(layer), length, layer.head_dim))),
        values(pad64(c.kernels->values_bytes(c.attention(layer), length, layer.head_dim))),
        count(std::clamp(static_cast<int>(packed_bytes / (keys + values)), 1, layer.kv_heads)) {}
};

Layout layout_of(const Context& c, const Linear& linear) {
  return c.kernels->layouts[static_cast<int>(linear.precision)];
}

// The widest result of the projections of late interaction.
int widest_token(const Model& m) {
  int widest = 0;
  for (const Dense& dense : m.token_head) widest = std::max(widest, dense.linear.outputs);
  return widest;
}

class Forward {
 public:
  Forward(const Context& c, const Batch& batch, const MicroBatch& micro, const Outputs& out,
          Activations& acts, Scratch& own, Scratch& common, Crew crew)
      : c_(c), m_(*c.model), k_(*c.kernels), batch_(batch), micro_(micro), out_(out), acts_(acts),
        own_(own), common_(common), crew_(crew), first_token_(batch.starts[micro.first]),
        tokens_(batch.starts[micro.last] - first_token_), width_(m_.width()),
        x_(acts.x.as<float>()), bag_(is_bag(m_, out)),
        has_pad_(m_.embedding.position_offset > 0 &&
                 std::count(batch.ids + first_token_, batch.ids + first_token_ + tokens_,
                            m_.embedding.position_offset - 1) > 0) {}

  void run() {
    if (bag_) {
      finish();
      return;
    }
    blocks(tokens_, block_rows(m_), [&](Crew& crew, Scratch& s, Range r) {
      const Embedding& e = m_.embedding;
      const bool projected = e.projection.outputs > 0;
      float* to = projected ? s.normed.as<float>() : row(r.first);
      crew.each(r.count, [&](int i) {
        embed(r.first + i, to + static_cast<std::ptrdiff_t>(i) * e.width);
      });
      if (!projected) return;
      const Operand a = operand(crew, s, e.projection, to, false, e.width, r.count);
      Epilogue then;
      then.out = row(r.first);
      then.stride = width_;
      multiply(crew, e.projection, a, r.count, then);
    });
    mix_layer(0);
    int done = 0;
    for (const Layer& layer : m_.layers) {
      if (crew_.stopped()) return;
      one_state_ = &layer == &m_.layers.back() && reads_one_state();
      run_layer(layer);
      if (++done < static_cast<int>(m_.layers.size())) mix_layer(done);
    }
    if (m_.final_norm.present) {
      blocks(rows(), block_rows(m_), [&](Crew& crew, Scratch&, Range r) {
        norm_rows(crew, m_.final_norm, row(r.first), row(r.first), r.count);
      });
    }
    if (done > 0) mix_layer(done);
    take_mixed();
    finish();
  }

 private:
  float* row(int i) const { return x_ + static_cast<std::ptrdiff_t>(i) * width_; }

  // Cuts rows into blocks. Each block is computed by one member if there are enough blocks, otherwise
  // by all members. The choice does not change any result.
  template <class F>
  void blocks(int rows, int height, F&& f) {
    if (rows == 0) return;
    const int n = ceil_div(rows, height);
    const int even = ceil_div(rows, n);
    const auto range = [&](int i) {
      const int first = std::min(i * even, rows);
      return Range{first, std::min(even, rows - first)};
    };
    if (crew_.size() > 1 && n < 2 * crew_.size()) {
      for (int i = 0; i < n; ++i) f(crew_, common_, range(i));
      return;
    }
    crew_.each(n, [&](int i) {
      Crew alone = crew_.alone();
      f(alone, own_, range(i));
    });
  }

  // Adds the states after a number of layers, by their weight, to the mean that is pooled.
  void mix_layer(int layers) {
    const LayerMix& mix = m_.layer_mix;
    if (mix.weights.empty() || layers < mix.start) return;
    const float weight = mix.weights[layers - mix.start];
    const bool first = layers == mix.start;
    blocks(tokens_, block_rows(m_), [&](Crew& crew, Scratch&, Range r) {
      crew.each(r.count, [&](int i) {
        const float* x = row(r.first + i);
        float* to = acts_.mixed.as<float>() + static_cast<std::ptrdiff_t>(r.first + i) * width_;
        for (int c = 0; c < width_; ++c) to[c] = (first ? 0.0f : to[c]) + weight * x[c];
      });
    });
  }

  void take_mixed() {
    if (m_.layer_mix.weights.empty()) return;
    crew_.each(1, [&](int) {
      std::memcpy(x_, acts_.mixed.as<float>(),
                  static_cast<std::size_t>(tokens_) * width_ * sizeof(float));
    });
  }

  void embed(int token, float* x) {
    const Embedding& e = m_.embedding;
    const std::size_t id = batch_.ids[first_token_ + token];
    const int width = e.width;
    to_float(static_cast<const std::uint8_t*>(e.word) + id * width * dtype_bytes(e.word_dtype),
             e.word_dtype, width, x);
    if (e.scale != 1.0f) k_.scale(x, e.scale, width);
    if (e.type != nullptr) {
      const std::size_t type = batch_.types[first_token_ + token];
      k_.add(x, e.type + type * width, width);
    }
    if (e.position != nullptr) {
      k_.add(x, e.position + static_cast<std::size_t>(position(token)) * width, width);
    }
    if (e.norm.present) k_.norm(x, x, e.norm.args);
  }

  // The row of a token in the table of positions. Where rows before the first position are kept for
  // padding, as in XLM-R, a padding token in a text has the last of them and is not counted.
  int position(int token) const {
    const int offset = m_.embedding.position_offset, pad = offset - 1, at = place(token).position;
    if (!has_pad_) return at + offset;
    const auto* id = batch_.ids + first_token_ + token;
    if (*id == pad) return pad;
    return at + offset - static_cast<int>(std::count(id - at, id, pad));
  }

  struct Place {
    int sequence, position;
  };
  Place place(int token) const {
    const auto* begin = batch_.starts + micro_.first;
    const auto* end = batch_.starts + micro_.last + 1;
    const int sequence =
        static_cast<int>(std::upper_bound(begin, end, first_token_ + token) - batch_.starts) - 1;
    return {sequence, first_token_ + token - batch_.starts[sequence]};
  }

  void norm_rows(Crew& crew, const Norm& norm, const float* from, float* to, int rows) {
    crew.each(rows, [&](int i) {
      const auto at = static_cast<std::ptrdiff_t>(i) * width_;
      k_.norm(from + at, to + at, norm.args);
    });
  }

  // --- products ---

  void multiply(Crew& crew, const Linear& linear, const Operand& a, int rows, const Epilogue& then) {
    if (crew.size() == 1) {
      k_.gemm({&linear, a, rows, 0, linear.panels, then});
      return;
    }
    crew.each(ceil_div(linear.panels, panels_at_a_time), [&](int i) {
      const int first = i * panels_at_a_time;
      k_.gemm({&linear, a, rows, first, std::min(first + panels_at_a_time, linear.panels), then});
    });
  }

  // Rows in the form that the product of `linear` reads. Rows that already have it are used in
  // place.
  Operand operand(Crew& crew, Scratch& s, const Linear& linear, const void* from, bool bf16,
                  std::ptrdiff_t stride, int rows) {
    const Layout layout = layout_of(c_, linear);
    const OperandKind kind = layout.operand;
    const int n = linear.inputs;
    const bool as_is = bf16 ? kind == OperandKind::bf16 : kind == OperandKind::f32;
    if (as_is && n % layout.group == 0) {
      return {from, stride * (bf16 ? 2 : 4), s.scale.as<float>(), s.low.as<float>()};
    }
    const std::ptrdiff_t to_stride =
        pad64(static_cast<std::size_t>(linear.steps) * layout.group * operand_bytes(kind));
    auto* to = s.operand.as<std::uint8_t>();
    const int padded = linear.steps * layout.group;
    crew.each(rows, [&](int i) {
      std::uint8_t* y = to + i * to_stride;
      const std::uint8_t* x = static_cast<const std::uint8_t*>(from) + i * stride * (bf16 ? 2 : 4);
      if (kind == OperandKind::u8 || kind == OperandKind::s16) {
        k_.quantise({x, bf16, &linear, kind, y, s.scale.as<float>() + i, s.low.as<float>() + i});
      } else {
        convert(x, bf16, n, y, kind);
      }
      const std::size_t used = n * operand_bytes(kind);
      std::memset(y + used, 0, padded * operand_bytes(kind) - used);
    });
    return {to, to_stride, s.scale.as<float>(), s.low.as<float>()};
  }

  void convert(const std::uint8_t* x, bool bf16, int n, std::uint8_t* y, OperandKind kind) {
    const auto* wide = reinterpret_cast<const float*>(x);
    if (bf16 == (kind == OperandKind::bf16)) {
      std::memcpy(y, x, n * operand_bytes(kind));
    } else if (bf16) {
      k_.from_bf16(reinterpret_cast<const std::uint16_t*>(x), n, reinterpret_cast<float*>(y));
    } else {
      k_.to_bf16(wide, n, reinterpret_cast<std::uint16_t*>(y));
    }
  }

  // --- one layer ---

  void run_layer(const Layer& layer) {
    blocks(tokens_, block_rows(m_),
           [&](Crew& crew, Scratch& s, Range r) { project(crew, s, layer, r); });
    attend(layer);
    if (one_state_) keep_one_state(layer);
    blocks(rows(), block_rows(m_), [&](Crew& crew, Scratch& s, Range r) {
      mix(crew, s, layer, r);
      feed_forward(crew, s, layer, r);
    });
  }

  // Whether every requested output depends on one state of each sequence only. The last layer then
  // needs all keys and values, but the queries and everything after them of that state only.
  bool reads_one_state() const {
    if (out_.states != nullptr || out_.sparse != nullptr || out_.tokens != nullptr) return false;
    if (out_.score != nullptr && out_.dense != nullptr) return false;
    if (!m_.layer_mix.weights.empty()) return false;
    return pooling() == Pooling::cls || pooling() == Pooling::last;
  }

  // The one kind of pooling, none if there are several.
  Pooling pooling() const {
    if (out_.score != nullptr) return m_.score.pooling;
    return m_.poolings.size() == 1 ? m_.poolings[0] : Pooling::none;
  }

  // Rows of the residual stream that are still needed.
  int rows() const { return one_state_ ? micro_.last - micro_.first : tokens_; }

  // The positions of a sequence whose queries are needed.
  Range queries(int sequence) const {
    const int length = batch_.length(sequence);
    if (!one_state_) return {0, length};
    return {pooling() == Pooling::cls ? batch_.pool_from[sequence] : length - 1, 1};
  }

  // Moves the attention result of the one needed state of each sequence, and the state itself, to
  // the front, one row per sequence. In order, because a row may be where an earlier one moves to.
  void keep_one_state(const Layer& layer) {
    crew_.each(1, [&](int) {
      for (int i = 0; i < micro_.last - micro_.first; ++i) {
        const int sequence = micro_.first + i;
        const int from = batch_.starts[sequence] - first_token_ + queries(sequence).first;
        if (from == i) continue;
        std::memcpy(row(i), row(from), width_ * sizeof(float));
        std::memcpy(state(layer, i, 0), state(layer, from, 0),
                    layer.heads * layer.head_dim * c_.state_bytes());
      }
    });
  }

  std::uint8_t* state(const Layer& layer, int token, int column) const {
    const std::size_t at = static_cast<std::size_t>(token) * layer.qkv_width() + column;
    return acts_.qkv.as<std::uint8_t>() + at * c_.state_bytes();
  }

  // Queries, keys and values of a block of rows.
  void project(Crew& crew, Scratch& s, const Layer& layer, Range r) {
    const float* in = row(r.first);
    if (!layer.post_norm && layer.attention_norm.present) {
      norm_rows(crew, layer.attention_norm, in, s.normed.as<float>(), r.count);
      in = s.normed.as<float>();
    }
    const Operand a = operand(crew, s, layer.qkv, in, false, width_, r.count);
    const bool later = c_.narrow && layer.touches_queries();
    Epilogue then;
    then.to_bf16 = c_.narrow && !later;
    then.out = later ? s.wide.as<void>() : state(layer, r.first, 0);
    then.stride = layer.qkv_width();
    multiply(crew, layer.qkv, a, r.count, then);
    if (!layer.touches_queries()) return;
    crew.each(r.count, [&](int i) {
      float* y = static_cast<float*>(then.out) + i * then.stride;
      place_heads(layer, r.first + i, y);
      if (later) {
        k_.to_bf16(y, layer.qkv_width(),
                   reinterpret_cast<std::uint16_t*>(state(layer, r.first + i, 0)));
      }
    });
  }

  // Prepares a token's queries and keys for attention: norm, rotation, log-n scaling.
  void place_heads(const Layer& layer, int token, float* y) {
    const Place at = place(token);
    const int d = layer.head_dim;
    for (int h = 0; h < layer.heads + layer.kv_heads; ++h) {
      const bool query = h < layer.heads;
      NormArgs norm = query ? layer.q_norm.args : layer.k_norm.args;
      if (layer.q_norm.present) k_.norm(y + h * d, y + h * d, norm);
      if (layer.rope >= 0) {
        const RopeTable& table = (*c_.ropes)[layer.rope];
        const auto first = static_cast<std::ptrdiff_t>(at.position) * table.half;
        k_.rotate(y + h * d, &table.cosine[first], &table.sine[first], table.half);
      }
    }
    if (!layer.log_n) return;
    const double length = batch_.length(at.sequence);
    double factor = std::log(length) / std::log(static_cast<double>(layer.log_n_trained));
    if (layer.log_n_at_least_one) factor = std::max(factor, 1.0);
    k_.scale(y, static_cast<float>(factor), layer.heads * d);
  }

  // One head, up to query_block query rows of a sequence, [first, last); the result replaces q.
  AttendArgs attend_args(const Layer& layer, int sequence, int head, int first, int last) const {
    AttendArgs args{};
    args.length = batch_.keys(sequence);
    args.first = first;
    args.last = std::min(last, first + query_block);
    args.q = state(layer, batch_.starts[sequence] - first_token_ + first, head * layer.head_dim);
    args.q_stride = args.out_stride = layer.qkv_width();
    args.out = const_cast<void*>(args.q);
    args.head_dim = layer.head_dim;
    args.scale = layer.score_scale;
    args.bias = m_.position_bias.centre(head);
    args.causal = layer.causal;
    args.window = layer.window;
    args.scratch = own_.attention.as<float>();
    return args;
  }

  void pack(const Layer& layer, int sequence, int kv_head, void* keys, void* values) {
    const int token = batch_.starts[sequence] - first_token_, d = layer.head_dim;
    const int length = batch_.keys(sequence);
    const int k = (layer.heads + kv_head) * d, v = (layer.heads + layer.kv_heads + kv_head) * d;
    const AttentionKind kind = c_.attention(layer);
    k_.pack_keys(kind, state(layer, token, k), layer.qkv_width(), length, d, keys);
    k_.pack_values(kind, state(layer, token, v), layer.qkv_width(), length, d, values);
  }

  void attend(const Layer& layer) {
    const int sequences = micro_.last - micro_.first;
    int longest = 0;
    for (int i = micro_.first; i < micro_.last; ++i) longest = std::max(longest, batch_.length(i));
    if (crew_.size() > 1 && longest > long_sequence) {
      const PackedHeads packed(c_, layer, longest);
      for (int i = micro_.first; i < micro_.last; ++i) attend_together(layer, i, packed);
      return;
    }
    const int group = layer.heads / layer.kv_heads;
    crew_.each(sequences * layer.kv_heads, [&](int task) {
      const int sequence = micro_.first + task / layer.kv_heads, kv_head = task % layer.kv_heads;
      pack(layer, sequence, kv_head, own_.keys.as<void>(), own_.values.as<void>());
      const Range wanted = queries(sequence);
      const int last = wanted.first + wanted.count;
      for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        for (int first = wanted.first; first < last && crew_.proceed(); first += query_block) {
          AttendArgs args = attend_args(layer, sequence, h, first, last);
          args.keys = own_.keys.as<void>();
          args.values = own_.values.as<void>();
          k_.attend(c_.attention(layer), args);
        }
      }
    });
  }

  // One long sequence by the whole team, some heads at a time: pack them, then blocks of query rows.
  void attend_together(const Layer& layer, int sequence, const PackedHeads& packed) {
    for (int first = 0; first < layer.kv_heads; first += packed.count) {
      attend_heads(layer, sequence, packed,
                   {first, std::min(packed.count, layer.kv_heads - first)});
    }
  }

  void attend_heads(const Layer& layer, int sequence, const PackedHeads& packed, Range kv_heads) {
    auto* keys = acts_.keys.as<std::uint8_t>();
    auto* values = acts_.values.as<std::uint8_t>();
    crew_.each(kv_heads.count, [&](int i) {
      pack(layer, sequence, kv_heads.first + i, keys + i * packed.keys, values + i * packed.values);
    });
    const int group = layer.heads / layer.kv_heads;
    const Range wanted = queries(sequence);
    const int parts = ceil_div(wanted.count, query_block);
    crew_.each(parts * kv_heads.count * group, [&](int task) {
      const int head = task / parts, first = wanted.first + task % parts * query_block;
      AttendArgs args = attend_args(layer, sequence, kv_heads.first * group + head, first,
                                    wanted.first + wanted.count);
      args.keys = keys + head / group * packed.keys;
      args.values = values + head / group * packed.values;
      k_.attend(c_.attention(layer), args);
    });
  }

  // x += out(attention)
  void mix(Crew& crew, Scratch& s, const Layer& layer, Range r) {
    const Operand a = operand(crew, s, layer.out, state(layer, r.first, 0), c_.narrow,
                              layer.qkv_width(), r.count);
    multiply_into(crew, s, layer.out, a, layer.attention_out_norm, row(r.first), r.count);
    if (layer.post_norm && layer.attention_norm.present) {
      norm_rows(crew, layer.attention_norm, row(r.first), row(r.first), r.count);
    }
  }

  // x += norm(linear(a)), or without the norm
  void multiply_into(Crew& crew, Scratch& s, const Linear& linear, const Operand& a,
                     const Norm& norm, float* x, int rows) {
    if (!norm.present) {
      multiply(crew, linear, a, rows, residual(x));
      return;
    }
    float* product = s.normed.as<float>();
    Epilogue then;
    then.out = product;
    then.stride = width_;
    multiply(crew, linear, a, rows, then);
    norm_rows(crew, norm, product, product, rows);
    crew.each(rows, [&](int i) {
      const auto at = static_cast<std::ptrdiff_t>(i) * width_;
      k_.add(x + at, product + at, width_);
    });
  }

  Epilogue residual(float* x) const {
    Epilogue then;
    then.kind = Epilogue::residual;
    then.out = x;
    then.stride = width_;
    return then;
  }

  void feed_forward(Crew& crew, Scratch& s, const Layer& layer, Range r) {
    const float* in = row(r.first);
    if (!layer.post_norm) {
      norm_rows(crew, layer.ffn_norm, in, s.normed.as<float>(), r.count);
      in = s.normed.as<float>();
    }
    widen_and_narrow(crew, s, layer.up, layer.down, layer.inner, layer.activation, in,
                     layer.ffn_out_norm, row(r.first), r.count);
    if (layer.post_norm) {
      norm_rows(crew, layer.ffn_norm, row(r.first), row(r.first), r.count);
    }
  }

  // x += norm(down(act(up(in)))), or without the norm
  void widen_and_narrow(Crew& crew, Scratch& s, const Linear& up, const Linear& down, int inner,
                        Activation activation, const float* in, const Norm& norm, float* x,
                        int rows) {
    const Operand a = operand(crew, s, up, in, false, width_, rows);
    const Layout next = layout_of(c_, down);
    Epilogue then;
    then.kind = up.gated ? Epilogue::gate : Epilogue::activate;
    then.activation = activation;
    then.exact = m_.precision == Precision::fp32;
    then.to_bf16 = next.operand == OperandKind::bf16;
    then.out = s.wide.as<void>();
    then.stride = inner;
    multiply(crew, up, a, rows, then);
    const Operand b = operand(crew, s, down, then.out, then.to_bf16, inner, rows);
    multiply_into(crew, s, down, b, norm, x, rows);
  }

  // --- heads ---

  void finish() {
    if (out_.states != nullptr) {
      crew_.each(1, [&](int) {
        std::memcpy(out_.states + static_cast<std::size_t>(first_token_) * width_, x_,
                    static_cast<std::size_t>(tokens_) * width_ * sizeof(float));
      });
    }
    if (out_.sparse != nullptr) per_token(m_.sparse_head, out_.sparse, 1, Activation::relu);
    if (out_.tokens != nullptr) token_vectors();
    if (out_.score != nullptr) score();
    if (out_.dense != nullptr) dense();
  }

  void per_token(const Linear& head, float* out, int width, Activation activation) {
    blocks(tokens_, block_rows(m_), [&](Crew& crew, Scratch& s, Range r) {
      const Operand a = operand(crew, s, head, row(r.first), false, width_, r.count);
      float* to = out + static_cast<std::ptrdiff_t>(first_token_ + r.first) * width;
      multiply(crew, head, a, r.count, activated(activation, to, width));
    });
  }

  // The projections of late interaction, a block of rows at a time.
  void token_vectors() {
    const std::vector<Dense>& head = m_.token_head;
    blocks(tokens_, block_rows(m_), [&](Crew& crew, Scratch& s, Range r) {
      float* result = out_.tokens + static_cast<std::ptrdiff_t>(first_token_ + r.first) * m_.token_width;
      const float* in = row(r.first);
      if (head.empty()) std::memcpy(result, in, sizeof(float) * r.count * m_.token_width);
      float* room[2] = {s.wide.as<float>(), s.wide.as<float>() + r.count * widest_token(m_)};
      for (std::size_t i = 0; i < head.size(); ++i) {
        float* to = i + 1 == head.size() ? result : room[i % 2];
        const Linear& linear = head[i].linear;
        const Operand a = operand(crew, s, linear, in, false, linear.inputs, r.count);
        multiply(crew, linear, a, r.count, activated(head[i].activation, to, linear.outputs));
        if (head[i].residual) add_input(crew, s, head[i], in, to, r.count);
        in = to;
      }
    });
  }

  // y += x, or its projection
  void add_input(Crew& crew, Scratch& s, const Dense& dense, const float* x, float* y, int rows) {
    const int outputs = dense.linear.outputs;
    if (dense.has_shortcut) {
      Epilogue then = residual(y);
      then.stride = outputs;
      const Operand a = operand(crew, s, dense.shortcut, x, false, dense.shortcut.inputs, rows);
      multiply(crew, dense.shortcut, a, rows, then);
      return;
    }
    crew.each(rows, [&](int i) {
      const auto at = static_cast<std::ptrdiff_t>(i) * outputs;
      k_.add(y + at, x + at, outputs);
    });
  }

  Epilogue activated(Activation activation, float* out, int stride) const {
    Epilogue then;
    then.kind = Epilogue::activate;
    then.activation = activation;
    then.out = out;
    then.stride = stride;
    return then;
  }

  // The pooled states of every sequence of the micro-batch, one after the other.
  void pool(const Pooling* kinds, int count, float* to) {
    crew_.each(micro_.last - micro_.first, [&](int i) {
      for (int k = 0; k < count; ++k) {
        pool_one(kinds[k], micro_.first + i, to + (static_cast<std::ptrdiff_t>(i) * count + k) * width_);
      }
    });
  }

  // The state of a token; of a bag of words, its vector.
  const float* state_of(int token) {
    if (!bag_) return row(token);
    float* x = own_.normed.as<float>();
    embed(token, x);
    return x;
  }

  void pool_one(Pooling pooling, int sequence, float* to) {
    const int first = batch_.starts[sequence] - first_token_, length = batch_.length(sequence);
    if (one_state_) {
      std::memcpy(to, row(sequence - micro_.first), width_ * sizeof(float));
      return;
    }
    const int from = batch_.pool_from[sequence];
    std::memset(to, 0, width_ * sizeof(float));
    if (length == 0) return;  // of an empty bag
    if (pooling == Pooling::cls || pooling == Pooling::last) {
      std::memcpy(to, state_of(first + (pooling == Pooling::cls ? from : length - 1)),
                  width_ * sizeof(float));
      return;
    }
    if (pooling == Pooling::max) {
      std::memcpy(to, state_of(first + from), width_ * sizeof(float));
      for (int t = from + 1; t < length; ++t) {
        const float* x = state_of(first + t);
        for (int c = 0; c < width_; ++c) to[c] = std::max(to[c], x[c]);
      }
      return;
    }
    if (pooling == Pooling::weighted) {  // by the position, from one
      double total = 0.0;
      for (int t = from; t < length; ++t) {
        const float* x = state_of(first + t);
        const float weight = static_cast<float>(t + 1);
        for (int c = 0; c < width_; ++c) to[c] += weight * x[c];
        total += weight;
      }
      k_.scale(to, static_cast<float>(1.0 / total), width_);
      return;
    }
    for (int t = from; t < length; ++t) k_.add(to, state_of(first + t), width_);
    const float count = static_cast<float>(length - from);
    k_.scale(to, 1.0f / (pooling == Pooling::mean_sqrt ? std::sqrt(count) : count), width_);
  }

  void apply_dense(const Dense& dense, const float* in, float* out, int rows) {
    const Operand a{in, static_cast<std::ptrdiff_t>(dense.linear.inputs * sizeof(float)),
                    common_.scale.as<float>(), common_.low.as<float>()};
    multiply(crew_, dense.linear, a, rows, activated(dense.activation, out, dense.linear.outputs));
  }

  void dense() {
    const int n = micro_.last - micro_.first;
    float* result = out_.dense + static_cast<std::ptrdiff_t>(micro_.first) * m_.dimension();
    if (m_.latent.present) latent();
    const int count = static_cast<int>(m_.poolings.size());
    if (m_.steps.empty()) {
      pool(m_.poolings.data(), count, result);
      return;
    }
    float* in = acts_.pooled.as<float>();
    float* other = acts_.hidden.as<float>();
    pool(m_.poolings.data(), count, in);
    int width = m_.pooled_width();
    for (const Step& step : m_.steps) {
      if (step.kind == Step::dense) {
        apply_dense(step.projection, in, other, n);
        std::swap(in, other);
        width = step.projection.linear.outputs;
        continue;
      }
      crew_.each(n, [&](int i) {
        float* x = in + static_cast<std::ptrdiff_t>(i) * width;
        if (step.kind == Step::norm) {
          k_.norm(x, x, step.scale.args);
        } else {
          to_unit_length(x, width);
        }
      });
    }
    crew_.each(1, [&](int) {
      std::memcpy(result, in, static_cast<std::size_t>(n) * width * sizeof(float));
    });
  }

  void to_unit_length(float* x, int width) {
    double square = 0.0;
    for (int c = 0; c < width; ++c) square += double{x[c]} * x[c];
    k_.scale(x, static_cast<float>(1.0 / std::max(std::sqrt(square), 1e-12)), width);
  }

  void score() {
    const Score& head = m_.score;
    const int n = micro_.last - micro_.first;
    float* in = acts_.pooled.as<float>();
    float* other = acts_.hidden.as<float>();
    int width = width_;
    pool(&head.pooling, 1, in);
    if (head.has_dense) {
      apply_dense(head.dense, in, other, n);
      std::swap(in, other);
      width = head.dense.linear.outputs;
    }
    if (head.norm.present) {
      crew_.each(n, [&](int i) {
        float* x = in + static_cast<std::ptrdiff_t>(i) * width;
        k_.norm(x, x, head.norm.args);
      });
    }
    const int outputs = head.out.outputs;
    Dense out;
    out.linear = head.out;
    apply_dense(out, in, other, n);
    crew_.each(n, [&](int i) {
      const float* logits = other + static_cast<std::ptrdiff_t>(i) * outputs;
      if (head.every) {
        std::memcpy(out_.score + static_cast<std::ptrdiff_t>(micro_.first + i) * outputs, logits,
                    outputs * sizeof(float));
        return;
      }
      float result = logits[0];
      if (head.probability) {
        double total = 0.0;
        for (int j = 0; j < outputs; ++j) total += std::exp(double{logits[j]} - logits[0]);
        result = static_cast<float>(1.0 / total);
      }
      out_.score[micro_.first + i] = result;
    });
  }

  // Every token attends to the learned latents, then goes through a feed-forward; both are residual.
  void latent() {
    blocks(tokens_, latent_block, [&](Crew& crew, Scratch& s, Range r) {
      attend_latents(crew, s, r);
      norm_rows(crew, m_.latent.ffn_norm, row(r.first), s.normed.as<float>(), r.count);
      widen_and_narrow(crew, s, m_.latent.up, m_.latent.down, m_.latent.inner, Activation::gelu,
                       s.normed.as<float>(), Norm{}, row(r.first), r.count);
    });
  }

  void attend_latents(Crew& crew, Scratch& s, Range r) {
    const Latent& latent = m_.latent;
    const int inner = latent.heads * latent.head_dim;
    norm_rows(crew, latent.query_norm, row(r.first), s.normed.as<float>(), r.count);
    const Operand a = operand(crew, s, latent.q, s.normed.as<float>(), false, width_, r.count);
    Epilogue then;
    then.to_bf16 = c_.narrow;
    then.out = s.wide.as<void>();
    then.stride = inner;
    multiply(crew, latent.q, a, r.count, then);
    crew.each(latent.heads, [&](int h) {
      AttendArgs args{};
      args.q = args.out =
          s.wide.as<std::uint8_t>() + static_cast<std::size_t>(h) * latent.head_dim * c_.state_bytes();
      args.q_stride = args.out_stride = inner;
      args.first = 0;
      args.last = r.count;
      args.length = latent.latents;
      args.head_dim = latent.head_dim;
      args.scale = 1.0f / std::sqrt(static_cast<float>(latent.head_dim));
      args.window = -1;
      args.keys = c_.latent->keys.as<std::uint8_t>() + h * c_.latent->key_bytes;
      args.values = c_.latent->values.as<std::uint8_t>() + h * c_.latent->value_bytes;
      args.scratch = own_.attention.as<float>();
      k_.attend(c_.attention(), args);
    });
    const Operand b = operand(crew, s, latent.out, s.wide.as<void>(), c_.narrow, inner,
                              r.count);
    multiply(crew, latent.out, b, r.count, residual(row(r.first)));
  }

  const Context& c_;
  const Model& m_;
  const Kernels& k_;
  const Batch& batch_;
  const MicroBatch& micro_;
  const Outputs& out_;
  Activations& acts_;
  Scratch& own_;
  Scratch& common_;
  Crew crew_;
  int first_token_, tokens_, width_;
  float* x_;
  bool bag_;      // whether the states are the word vectors, which are read where they are stored
  bool has_pad_;  // whether a token is the one that is not counted
  bool one_state_ = false;  // from the last layer's attention on
};

int widest_qkv(const Model& m) {
  int widest = 0;
  for (const Layer& l : m.layers) widest = std::max(widest, l.qkv_width());
  return widest;
}

}  // namespace

void RopeTable::grow(const Rope& rope, int to) {
  half = static_cast<int>(rope.inverse.size());
  if (to <= positions) return;
  to = std::max(to, 2 * positions);
  cosine.resize(static_cast<std::size_t>(to) * half);
  sine.resize(cosine.size());
  for (int p = positions; p < to; ++p) {
    for (int i = 0; i < half; ++i) {
      // the angle in single precision, as the models were trained; its cosine in double
      const float angle = static_cast<float>(p) * rope.inverse[i];
      const std::size_t at = static_cast<std::size_t>(p) * half + i;
      cosine[at] = static_cast<float>(std::cos(double{angle}) * rope.magnitude);
      sine[at] = static_cast<float>(std::sin(double{angle}) * rope.magnitude);
    }
  }
  positions = to;
}

int block_rows(const Model& model) {
  int inner = model.width();
  for (const Layer& l : model.layers) inner = std::max(inner, l.inner);
  // half a megabyte of inner activations, but enough rows to make reading the weights worthwhile
  return std::clamp((1 << 19) / (4 * inner), 48, 240);
}

void Activations::reserve(const Context& c, const Batch& batch, const MicroBatch& micro,
                          const Outputs& out, bool shared) {
  const Model& m = *c.model;
  const std::size_t tokens = batch.starts[micro.last] - batch.starts[micro.first];
  const std::size_t sequences = micro.last - micro.first;
  if (!is_bag(m, out)) x.reserve(tokens * m.width() * sizeof(float));
  if (!m.layer_mix.weights.empty()) mixed.reserve(tokens * m.width() * sizeof(float));
  qkv.reserve(tokens * widest_qkv(m) * c.state_bytes());
  std::size_t widest = std::max(m.width(), m.pooled_width());
  for (const Step& s : m.steps) widest = std::max<std::size_t>(widest, s.projection.linear.outputs);
  if (m.score.has_dense) widest = std::max<std::size_t>(widest, m.score.dense.linear.outputs);
  if (m.score.present) widest = std::max<std::size_t>(widest, m.score.out.outputs);
  pooled.reserve(sequences * widest * sizeof(float));
  hidden.reserve(sequences * widest * sizeof(float));
  if (!shared) return;
  int longest = 0;
  for (int i = micro.first; i < micro.last; ++i) longest = std::max(longest, batch.length(i));
  if (longest <= long_sequence) return;
  for (const Layer& l : m.layers) {
    const PackedHeads packed(c, l, longest);
    keys.reserve(packed.keys * packed.count);
    values.reserve(packed.values * packed.count);
  }
}

std::size_t Activations::bytes() const {
  return x.bytes() + mixed.bytes() + qkv.bytes() + keys.bytes() + values.bytes() + pooled.bytes() + hidden.bytes();
}

void Activations::release() {
  for (Buffer* b : {&x, &mixed, &qkv, &keys, &values, &pooled, &hidden}) b->release();
}

void Scratch::reserve(const Context& c, int longest) {
  const Model& m = *c.model;
  const std::size_t rows = block_rows(m) + 1;
  const int embedded = m.embedding.width;
  std::size_t inputs = std::max({m.width(), widest_token(m), embedded});
  std::size_t wide = std::max(widest_qkv(m), 2 * widest_token(m));
  for (const Layer& l : m.layers) {
    inputs = std::max<std::size_t>({inputs, static_cast<std::size_t>(l.inner),
                                    static_cast<std::size_t>(l.heads * l.head_dim)});
    wide = std::max<std::size_t>(wide, l.inner);
    const AttentionKind kind = c.attention(l);
    attention.reserve(c.kernels->attend_scratch(kind, l.head_dim) * sizeof(float));
    keys.reserve(c.kernels->keys_bytes(kind, longest, l.head_dim));
    values.reserve(c.kernels->values_bytes(kind, longest, l.head_dim));
  }
  std::size_t operand_room = rows * (inputs * sizeof(float) + 128);
  std::size_t wide_room = rows * wide;
  if (m.latent.present) {
    const std::size_t inner = static_cast<std::size_t>(m.latent.heads) * m.latent.head_dim;
    const std::size_t most = std::max<std::size_t>(inner, m.latent.inner);
    attention.reserve(c.kernels->attend_scratch(c.attention(), m.latent.head_dim) * sizeof(float));
    operand_room = std::max(operand_room, (latent_block + 1) * (most * sizeof(float) + 128));
    wide_room = std::max(wide_room, (latent_block + 1) * most);
  }
  normed.reserve(rows * std::max(m.width(), embedded) * sizeof(float));
  operand.reserve(operand_room);
  scale.reserve(rows * sizeof(float));
  low.reserve(rows * sizeof(float));
  this->wide.reserve(wide_room * sizeof(float));
}

std::size_t Scratch::bytes() const {
  std::size_t total = 0;
  for (const Buffer* b : {&normed, &operand, &scale, &low, &wide, &attention, &keys, &values}) {
    total += b->bytes();
  }
  return total;
}

void run_micro_batch(const Context& c, const Batch& batch, const MicroBatch& micro,
                     const Outputs& out, Activations& acts, Scratch& own, Scratch& common,
                     Crew crew) {
  Forward(c, batch, micro, out, acts, own, common, crew).run();
}

void prepare_latent(Context& c, LatentKeys& to) {
  const Latent& latent = c.model->latent;
  const Kernels& k = *c.kernels;
  const int n = latent.latents, d = latent.head_dim, inner = latent.heads * d;
  const int width = latent.latent_width;
  Buffer normed, kv, state;
  normed.reserve(static_cast<std::size_t>(n) * width * sizeof(float));
  kv.reserve(static_cast<std::size_t>(n) * 2 * inner * sizeof(float));
  for (int i = 0; i < n; ++i) {
    const auto at = static_cast<std::ptrdiff_t>(i) * width;
    k.norm(latent.latent_rows + at, normed.as<float>() + at, latent.context_norm.args);
  }
  Epilogue then;
  then.out = kv.as<void>();
  then.stride = 2 * inner;
  const Operand a{normed.as<void>(), static_cast<std::ptrdiff_t>(width * sizeof(float)),
                  normed.as<float>(), normed.as<float>()};
  k.gemm({&latent.kv, a, n, 0, latent.kv.panels, then});
  const std::uint8_t* rows = kv.as<std::uint8_t>();
  if (c.narrow) {
    const int total = 2 * inner;
    state.reserve(static_cast<std::size_t>(n) * total * 2);
    for (int i = 0; i < n; ++i) {
      const auto at = static_cast<std::ptrdiff_t>(i) * total;
      k.to_bf16(kv.as<float>() + at, total, state.as<std::uint16_t>() + at);
    }
    rows = state.as<std::uint8_t>();
  }
  to.key_bytes = pad64(k.keys_bytes(c.attention(), n, d));
  to.value_bytes = pad64(k.values_bytes(c.attention(), n, d));
  to.keys.reserve(to.key_bytes * latent.heads);
  to.values.reserve(to.value_bytes * latent.heads);
  for (int h = 0; h < latent.heads; ++h) {
    const std::size_t key = static_cast<std::size_t>(h) * d * c.state_bytes();
    const std::size_t value = (static_cast<std::size_t>(inner) + h * d) * c.state_bytes();
    k.pack_keys(c.attention(), rows + key, 2 * inner, n, d,
                to.keys.as<std::uint8_t>() + h * to.key_bytes);
    k.pack_values(c.attention(), rows + value, 2 * inner, n, d,
                  to.values.as<std::uint8_t>() + h * to.value_bytes);
  }
}

}  // namespace opengte
