// The Python interface of the engine: records in, arrays out. See opengte/engine/native.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "engine.hpp"
#include "gil.hpp"
#include "maxsim.hpp"
#include "names.hpp"
#include "probe.hpp"

namespace nb = nanobind;

namespace opengte {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using WritableBytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Results = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const char* name : {"amx", "avx512", "avx2", "neon_i8mm", "neon", "portable"}) {
    if (kernels_of(name) != nullptr) names.emplace_back(name);
  }
  return names;
}

// --- a plan, as nested dicts, and its prepared weights, by slot ---

class Reader {
 public:
  Reader(const Kernels& kernels, const nb::dict& weights, std::vector<Bytes>& keep)
      : kernels_(kernels), weights_(weights), keep_(keep) {}

  template <class T>
  static T get(const nb::dict& d, const char* key) {
    if (!d.contains(key)) throw std::invalid_argument("the plan lacks `" + std::string(key) + "`");
    return nb::cast<T>(d[key]);
  }
  static bool has(const nb::dict& d, const char* key) { return d.contains(key) && !d[key].is_none(); }

  const std::uint8_t* bytes(const std::string& slot, std::size_t expected) {
    if (!weights_.contains(slot.c_str())) throw std::invalid_argument("no weights for `" + slot + "`");
    Bytes array = nb::cast<Bytes>(weights_[slot.c_str()]);
    if (array.size() != expected) {
      throw std::invalid_argument("`" + slot + "` has " + std::to_string(array.size()) +
                                  " bytes, expected " + std::to_string(expected));
    }
    if (reinterpret_cast<std::uintptr_t>(array.data()) % 64 != 0) {
      throw std::invalid_argument("`" + slot + "` is not aligned to 64 bytes");
    }
    keep_.push_back(array);
    return array.data();
  }

  const float* floats(const std::string& slot, std::size_t n) {
    return reinterpret_cast<const float*>(bytes(slot, n * sizeof(float)));
  }

  Linear linear(const std::string& slot, const nb::dict& precisions, bool gated, int outputs,
                int inputs) {
    const Precision p = precision_of(get<std::string>(precisions, slot.c_str()));
    const PackedLinear packed{kernels_.layouts[static_cast<int>(p)], p, gated, outputs, inputs};
    return packed.view(bytes(slot, packed.bytes()));
  }

  Norm norm(const nb::dict& owner, const char* field, const std::string& slot, int width) {
    if (!has(owner, field)) return {};
    return norm(nb::cast<nb::dict>(owner[field]), slot, width);
  }

  Norm norm(const nb::dict& spec, const std::string& slot, int width) {
    Norm n;
    n.present = true;
    n.args.rms = get<std::string>(spec, "kind") == "rms";
    n.args.eps = get<float>(spec, "eps");
    n.args.width = width;
    n.args.weight = floats(slot + ".weight", width);
    n.args.bias = get<bool>(spec, "bias") ? floats(slot + ".bias", width) : nullptr;
    return n;
  }

 private:
  const Kernels& kernels_;
  const nb::dict& weights_;
  std::vector<Bytes>& keep_;
};

Embedding read_embedding(Reader& r, const nb::dict& d, const nb::dict& precisions,
                         const std::string& dtype) {
  Embedding e;
  e.vocabulary = r.get<int>(d, "vocabulary");
  e.width = r.get<int>(d, "width");
  e.positions = r.get<int>(d, "positions");
  e.position_offset = r.get<int>(d, "position_offset");
  e.types = r.get<int>(d, "types");
  e.scale = r.get<float>(d, "scale");
  e.word_dtype = dtype_of(dtype);
  const std::size_t width = e.width;
  e.word = r.bytes("embedding.word", e.vocabulary * width * dtype_bytes(e.word_dtype));
  if (e.positions > 0) e.position = r.floats("embedding.position", e.positions * width);
  if (e.types > 0) e.type = r.floats("embedding.token_type", e.types * width);
  e.norm = r.norm(d, "norm", "embedding.norm", e.width);
  if (r.has(d, "projected")) {
    e.projection =
        r.linear("embedding.projection", precisions, false, r.get<int>(d, "projected"), e.width);
  }
  return e;
}

Layer read_layer(Reader& r, const nb::dict& d, const nb::dict& precisions, const std::string& slot,
                 int width) {
  const auto attention = r.get<nb::dict>(d, "attention");
  const auto ffn = r.get<nb::dict>(d, "ffn");
  Layer l;
  l.post_norm = r.get<bool>(d, "post_norm");
  l.heads = r.get<int>(attention, "heads");
  l.kv_heads = r.get<int>(attention, "kv_heads");
  l.head_dim = r.get<int>(attention, "head_dim");
  if (l.heads <= 0 || l.kv_heads <= 0 || l.head_dim <= 0 || l.heads % l.kv_heads != 0) {
    throw std::invalid_argument("`" + slot + "` has no valid head counts");
  }
  l.score_scale = r.has(attention, "scale")
                      ? r.get<float>(attention, "scale")
                      : 1.0f / std::sqrt(static_cast<float>(l.head_dim));
  if (!(l.score_scale > 0.0f)) throw std::invalid_argument("`" + slot + "` has no valid scale");
  l.causal = r.get<bool>(attention, "causal");
  l.window = r.has(attention, "window") ? r.get<int>(attention, "window") : -1;
  l.rope = r.has(attention, "rope") ? r.get<int>(attention, "rope") : -1;
  if (r.has(attention, "logn")) {
    const auto logn = r.get<nb::dict>(attention, "logn");
    l.log_n = true;
    l.log_n_trained = r.get<float>(logn, "trained_length");
    l.log_n_at_least_one = r.get<bool>(logn, "at_least_one");
  }
  l.inner = r.get<int>(ffn, "inner");
  l.activation = activation_of(r.get<std::string>(ffn, "activation"));
  const bool gated = r.get<bool>(ffn, "gated");
  l.attention_norm = r.norm(d, "attention_norm", slot + ".attention_norm", width);
  l.qkv = r.linear(slot + ".qkv", precisions, false, l.qkv_width(), width);
  l.q_norm = r.norm(attention, "qk_norm", slot + ".q_norm", l.head_dim);
  l.k_norm = r.norm(attention, "qk_norm", slot + ".k_norm", l.head_dim);
  l.out = r.linear(slot + ".out", precisions, false, width, l.heads * l.head_dim);
  l.attention_out_norm = r.norm(d, "attention_out_norm", slot + ".attention_out_norm", width);
  l.ffn_norm = r.norm(d, "ffn_norm", slot + ".ffn_norm", width);
  l.up = r.linear(slot + ".up", precisions, gated, gated ? 2 * l.inner : l.inner, width);
  l.down = r.linear(slot + ".down", precisions, false, width, l.inner);
  l.ffn_out_norm = r.norm(d, "ffn_out_norm", slot + ".ffn_out_norm", width);
  return l;
}

// The bias of each head and distance, either learned for each bucket of distances, or by a slope.
// Divided by the scale of scores, which the kernels multiply with afterwards.
PositionBias read_position_bias(Reader& r, const nb::dict& d, const Layer& layer) {
  PositionBias bias;
  bias.positions = r.get<int>(d, "positions");
  if (bias.positions <= 0) throw std::invalid_argument("a position bias needs positions");
  const int distances = 2 * bias.positions - 1;
  bias.values.assign(static_cast<std::size_t>(layer.heads) * bias.stride(), 0.0f);
  std::vector<int> buckets;
  std::vector<float> slopes;
  const float* learned = nullptr;
  if (r.has(d, "buckets")) {
    buckets = r.get<std::vector<int>>(d, "buckets");
    const int count = r.get<int>(d, "count");
    learned = r.floats("position_bias", static_cast<std::size_t>(count) * layer.heads);
    for (const int bucket : buckets) {
      if (bucket < 0 || bucket >= count) throw std::invalid_argument("no such position bucket");
    }
  } else {
    slopes = r.get<std::vector<float>>(d, "slopes");
  }
  if (buckets.size() != static_cast<std::size_t>(learned ? distances : 0) ||
      slopes.size() != static_cast<std::size_t>(learned ? 0 : layer.heads)) {
    throw std::invalid_argument("the position bias does not fit the heads and positions");
  }
  for (int h = 0; h < layer.heads; ++h) {
    float* values = &bias.values[static_cast<std::size_t>(h) * bias.stride()];
    for (int i = 0; i < distances; ++i) {
      const int away = std::abs(i - (bias.positions - 1));
      const float value = learned ? learned[static_cast<std::size_t>(buckets[i]) * layer.heads + h]
                                  : -slopes[h] * static_cast<float>(away);
      values[i] = value / layer.score_scale;
    }
  }
  return bias;
}

Latent read_latent(Reader& r, const nb::dict& d, const nb::dict& precisions, int width) {
  Latent l;
  l.present = true;
  l.latents = r.get<int>(d, "latents");
  l.latent_width = r.get<int>(d, "latent_width");
  l.heads = r.get<int>(d, "heads");
  l.head_dim = r.get<int>(d, "head_dim");
  l.inner = r.get<int>(d, "inner");
  nb::dict norm;
  norm["kind"] = "layer";
  norm["eps"] = d["eps"];
  norm["bias"] = true;
  const int inner = l.heads * l.head_dim;
  l.latent_rows = r.floats("latent.latents", static_cast<std::size_t>(l.latents) * l.latent_width);
  l.query_norm = r.norm(norm, "latent.query_norm", width);
  l.context_norm = r.norm(norm, "latent.context_norm", l.latent_width);
  l.ffn_norm = r.norm(norm, "latent.ffn_norm", width);
  l.q = r.linear("latent.q", precisions, false, inner, width);
  l.kv = r.linear("latent.kv", precisions, false, 2 * inner, l.latent_width);
  if (l.kv.precision != Precision::fp32) throw std::invalid_argument("`latent.kv` must be fp32");
  l.out = r.linear("latent.out", precisions, false, width, inner);
  l.up = r.linear("latent.up", precisions, true, 2 * l.inner, width);
  l.down = r.linear("latent.down", precisions, false, width, l.inner);
  return l;
}

// Heads are small and come last: they are always computed in full precision.
Linear head(Reader& r, const std::string& slot, const nb::dict& precisions, int outputs, int inputs) {
  Linear linear = r.linear(slot, precisions, false, outputs, inputs);
  if (linear.precision != Precision::fp32) {
    throw std::invalid_argument("the head `" + slot + "` must be fp32");
  }
  return linear;
}

Step read_step(Reader& r, const nb::dict& d, const nb::dict& precisions, const std::string& slot,
               int width) {
  Step step;
  const auto kind = r.get<std::string>(d, "step");
  if (kind == "dense") {
    step.projection.linear = head(r, slot, precisions, r.get<int>(d, "outputs"), width);
    step.projection.activation = activation_of(r.get<std::string>(d, "activation"));
  } else if (kind == "norm") {
    step.kind = Step::norm;
    step.scale = r.norm(d, slot, width);
  } else if (kind == "unit") {
    step.kind = Step::unit;
  } else {
    throw std::invalid_argument("no such step: " + kind);
  }
  return step;
}

LayerMix read_layer_mix(Reader& r, const nb::dict& d, std::size_t layers) {
  LayerMix mix;
  mix.start = r.get<int>(d, "start");
  if (mix.start < 0 || static_cast<std::size_t>(mix.start) > layers) {
    throw std::invalid_argument("no such layer to begin with");
  }
  const std::size_t count = layers + 1 - mix.start;
  const float* stored = r.floats("layer_mix", count);
  double total = 0.0;
  for (std::size_t i = 0; i < count; ++i) total += stored[i];
  for (std::size_t i = 0; i < count; ++i) mix.weights.push_back(static_cast<float>(stored[i] / total));
  return mix;
}

Score read_score(Reader& r, const nb::dict& d, const nb::dict& precisions, int width) {
  Score s;
  s.present = true;
  s.pooling = pooling_of(r.get<std::string>(d, "pooling"));
  if (r.has(d, "dense")) {
    const auto dense = r.get<nb::dict>(d, "dense");
    const int outputs = r.get<int>(dense, "outputs");
    s.has_dense = true;
    s.dense.linear = head(r, "score.dense", precisions, outputs, width);
    s.dense.activation = activation_of(r.get<std::string>(dense, "activation"));
    width = outputs;
  }
  s.norm = r.norm(d, "norm", "score.norm", width);
  s.out = head(r, "score.out", precisions, r.get<int>(d, "outputs"), width);
  s.probability = r.get<bool>(d, "probability");
  s.every = r.get<bool>(d, "every");
  return s;
}

std::vector<Dense> read_token_head(Reader& r, const nb::list& items, const nb::dict& precisions,
                                   const Model& m) {
  std::vector<Dense> result;
  int width = m.width();
  for (nb::handle item : items) {
    const auto d = nb::cast<nb::dict>(item);
    const auto slot = r.get<std::string>(d, "slot");
    const int outputs = r.get<int>(d, "outputs");
    Dense dense;
    dense.linear = head(r, slot, precisions, outputs, width);
    dense.activation = activation_of(r.get<std::string>(d, "activation"));
    dense.residual = r.get<bool>(d, "residual");
    dense.has_shortcut = dense.residual && outputs != width;
    if (dense.has_shortcut) {
      dense.shortcut = head(r, slot + ".residual", precisions, outputs, width);
    }
    result.push_back(dense);
    width = outputs;
  }
  if (m.token_width > 0 && width != m.token_width) {
    throw std::invalid_argument("the token head does not give vectors of the token width");
  }
  return result;
}

Model read_model(Reader& r, const nb::dict& plan, const nb::dict& precisions) {
  Model m;
  m.precision = precision_of(r.get<std::string>(plan, "precision"));
  m.embedding = read_embedding(r, r.get<nb::dict>(plan, "embedding"), precisions,
                               r.get<std::string>(plan, "word_dtype"));
  for (nb::handle item : r.get<nb::list>(plan, "ropes")) {
    const auto rope = nb::cast<nb::dict>(item);
    m.ropes.push_back({r.get<std::vector<float>>(rope, "inverse"), r.get<float>(rope, "magnitude")});
  }
  int i = 0;
  for (nb::handle layer : r.get<nb::list>(plan, "layers")) {
    m.layers.push_back(read_layer(r, nb::cast<nb::dict>(layer), precisions,
                                  "layers." + std::to_string(i++), m.width()));
    const Layer& l = m.layers.back();
    if (l.rope >= static_cast<int>(m.ropes.size()) ||
        (l.rope >= 0 && 2 * m.ropes[l.rope].inverse.size() != static_cast<std::size_t>(l.head_dim))) {
      throw std::invalid_argument("rotary frequencies do not fit the head dimension");
    }
  }
  if (r.has(plan, "position_bias")) {
    for (const Layer& l : m.layers) {
      if (l.heads != m.layers[0].heads || l.score_scale != m.layers[0].score_scale) {
        throw std::invalid_argument("layers that share a position bias must have equal heads");
      }
    }
    m.position_bias =
        read_position_bias(r, r.get<nb::dict>(plan, "position_bias"), m.layers.at(0));
  }
  m.final_norm = r.norm(plan, "final_norm", "final_norm", m.width());
  if (r.has(plan, "layer_mix")) {
    m.layer_mix = read_layer_mix(r, r.get<nb::dict>(plan, "layer_mix"), m.layers.size());
  }
  for (const auto& name : r.get<std::vector<std::string>>(plan, "poolings")) {
    m.poolings.push_back(pooling_of(name));
  }
  if (r.has(plan, "latent")) {
    m.latent = read_latent(r, r.get<nb::dict>(plan, "latent"), precisions, m.width());
  }
  int width = m.pooled_width(), j = 0;
  for (nb::handle item : r.get<nb::list>(plan, "steps")) {
    m.steps.push_back(read_step(r, nb::cast<nb::dict>(item), precisions,
                                "dense." + std::to_string(j++), width));
    if (m.steps.back().kind == Step::dense) width = m.steps.back().projection.linear.outputs;
  }
  m.sparse = r.get<bool>(plan, "sparse");
  if (m.sparse) m.sparse_head = head(r, "sparse", precisions, 1, m.width());
  m.token_width = r.get<int>(plan, "token_width");
  m.token_head = read_token_head(r, r.get<nb::list>(plan, "token_head"), precisions, m);
  if (r.has(plan, "score")) {
    m.score = read_score(r, r.get<nb::dict>(plan, "score"), precisions, m.width());
  }
  return m;
}

// --- classes ---

class PyPacker {
 public:
  PyPacker(const std::string& isa, const std::string& precision, bool gated, int outputs, int inputs)
      : packed_{usable_kernels(isa)->layouts[static_cast<int>(precision_of(precision))],
                precision_of(precision), gated, outputs, inputs} {
    if (outputs <= 0 || inputs <= 0 || (gated && outputs % 2 != 0)) {
      throw std::invalid_argument("no valid matrix shape");
    }
  }
  std::size_t bytes() const { return packed_.bytes(); }

  void smooth(Floats centre, Floats spread, WritableBytes to) const {
    const std::size_t n = packed_.inputs;
    if (packed_.precision != Precision::int8 || centre.size() != n || spread.size() != n) {
      throw std::invalid_argument("smoothing needs int8, and one value an input");
    }
    for (std::size_t k = 0; k < n; ++k) {
      if (!(spread.data()[k] > 0.0f)) throw std::invalid_argument("spread must be positive");
    }
    check(true, 0, 0, to);
    packed_.smooth(centre.data(), spread.data(), to.data());
  }
  void weights(Bytes rows, const std::string& dtype, int first, WritableBytes to) const {
    const Dtype d = dtype_of(dtype);
    const std::size_t row = packed_.inputs * dtype_bytes(d);
    check(rows.size() % row == 0, first, rows.size() / row, to);
    const WithoutGil released;
    packed_.pack_weights(rows.data(), d, first, static_cast<int>(rows.size() / row), to.data());
  }
  void bias(Bytes values, const std::string& dtype, int first, WritableBytes to) const {
    const Dtype d = dtype_of(dtype);
    check(values.size() % dtype_bytes(d) == 0, first, values.size() / dtype_bytes(d), to);
    packed_.pack_bias(values.data(), d, first, static_cast<int>(values.size() / dtype_bytes(d)),
                      to.data());
  }

 private:
  void check(bool whole, int first, std::size_t count, const WritableBytes& to) const {
    if (!whole || first < 0 || count > static_cast<std::size_t>(packed_.outputs - first)) {
      throw std::invalid_argument("rows do not fit the matrix");
    }
    if (to.size() != packed_.bytes()) throw std::invalid_argument("the buffer has the wrong size");
  }
  PackedLinear packed_;
};

class PyEngine {
 public:
  PyEngine(const nb::dict& plan, const nb::dict& precisions, const nb::dict& weights,
           const std::string& isa, int threads, int micro_tokens) {
    if (threads < 1 || micro_tokens < 1) throw std::invalid_argument("threads must be at least 1");
    const Kernels* kernels = usable_kernels(isa);
    Reader reader(*kernels, weights, keep_);
    engine_ = std::make_unique<Engine>(read_model(reader, plan, precisions), kernels, threads,
                                       micro_tokens);
  }

  void run(Ints ids, Ints starts, Ints types, Ints pool_from, std::optional<Ints> attended,
           std::optional<Results> dense, std::optional<Results> sparse,
           std::optional<Results> tokens, std::optional<Results> states,
           std::optional<Results> score) {
    if (attended && attended->size() != pool_from.size()) {
      throw std::invalid_argument("attended and pool_from do not belong together");
    }
    if (starts.size() == 0 || starts.size() - 1 != pool_from.size() || ids.size() != types.size()) {
      throw std::invalid_argument("ids, cu_seqlens, type_ids and pool_from do not belong together");
    }
    if (ids.size() > 0x7fffffff) throw std::invalid_argument("too many tokens in one batch");
    const Model& m = engine_->model();
    const std::size_t n = pool_from.size(), t = ids.size();
    if (dense && m.poolings.empty()) throw std::invalid_argument("the model has no pooling");
    if (sparse && !m.sparse) throw std::invalid_argument("the model has no sparse head");
    if (tokens && m.token_width == 0) throw std::invalid_argument("the model has no token head");
    if (score && !m.score.present) throw std::invalid_argument("the model has no score head");
    Batch batch;
    batch.ids = ids.data();
    batch.starts = starts.data();
    batch.types = types.data();
    batch.pool_from = pool_from.data();
    batch.attended = attended ? attended->data() : nullptr;
    batch.sequences = static_cast<int>(n);
    Outputs out;
    out.dense = place(dense, n * m.dimension());
    out.sparse = place(sparse, t);
    out.tokens = place(tokens, t * m.token_width);
    out.states = place(states, t * m.width());
    out.score = place(score, n * m.score.width());
    bool done;
    {
      WithoutGil released;
      const auto signalled = [&] {
        return released.with_gil([] { return PyErr_CheckSignals() != 0; });
      };
      done = engine_->run(batch, static_cast<int>(t), out, signalled);
    }
    if (!done) throw nb::python_error();
  }

  std::string isa() const { return engine_->kernels().name; }
  int threads() const { return engine_->threads(); }
  std::size_t workspace_bytes() const { return engine_->workspace_bytes(); }

 private:
  static float* place(const std::optional<Results>& array, std::size_t expected) {
    if (!array) return nullptr;
    if (array->size() != expected) throw std::invalid_argument("a result array has the wrong size");
    return array->data();
  }
  std::vector<Bytes> keep_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

NB_MODULE(_native, m) {
  // a daemon thread that is inside a call at exit keeps its engine: nobody's mistake
  nb::set_leak_warnings(false);
  m.doc() = "Kernels of the CPU engine; use opengte.engine.native.";
  m.def("levels", &levels, "Instruction-set levels that this machine and build have, best first.");
  nb::class_<PyPacker>(m, "Packer")
      .def(nb::init<const std::string&, const std::string&, bool, int, int>(), nb::arg("isa"),
           nb::arg("precision"), nb::arg("gated"), nb::arg("outputs"), nb::arg("inputs"))
      .def_prop_ro("bytes", &PyPacker::bytes)
      .def("smooth", &PyPacker::smooth, nb::arg("centre"), nb::arg("spread"), nb::arg("to"))
      .def("weights", &PyPacker::weights, nb::arg("rows"), nb::arg("dtype"), nb::arg("first"),
           nb::arg("to"))
      .def("bias", &PyPacker::bias, nb::arg("values"), nb::arg("dtype"), nb::arg("first"),
           nb::arg("to"));
  nb::class_<PyEngine>(m, "Engine")
      .def(nb::init<const nb::dict&, const nb::dict&, const nb::dict&, const std::string&, int, int>(),
           nb::arg("plan"), nb::arg("precisions"), nb::arg("weights"), nb::arg("isa"),
           nb::arg("threads"), nb::arg("micro_tokens"))
      .def("run", &PyEngine::run, nb::arg("ids"), nb::arg("cu_seqlens"), nb::arg("type_ids"),
           nb::arg("pool_from"), nb::arg("attended").none(), nb::arg("dense").none(), nb::arg("sparse").none(),
           nb::arg("tokens").none(), nb::arg("states").none(), nb::arg("score").none())
      .def_prop_ro("isa", &PyEngine::isa)
      .def_prop_ro("threads", &PyEngine::threads)
      .def_prop_ro("workspace_bytes", &PyEngine::workspace_bytes);
  add_maxsim(m);
  add_probes(m);
}

}  // namespace opengte
