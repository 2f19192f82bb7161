#include "engine.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

namespace opengte {
namespace {

using std::to_string;

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

bool finite(const float* x, std::size_t n) {
  // a sum of zeros times values is zero exactly when all of them are finite
  float total = 0.0f;
  for (std::size_t i = 0; i < n; ++i) total += x[i] * 0.0f;
  return total == 0.0f;
}

// Head dimensions whose pairs straddle two heads cannot be read as bfloat16 pairs.
bool even_heads(const Model& m) {
  bool even = !m.latent.present || m.latent.head_dim % 2 == 0;
  for (const Layer& l : m.layers) even = even && l.head_dim % 2 == 0;
  return even;
}

// Workspaces above this size are freed after a call: a rare long text must not hold memory forever.
constexpr std::size_t keep_bytes = 64u << 20;

}  // namespace

Engine::Engine(Model model, const Kernels* kernels, int threads, int micro_tokens)
    : model_(std::move(model)), kernels_(kernels), threads_(threads), micro_tokens_(micro_tokens),
      workspace_(nullptr) {
  auto space = std::make_unique<Workspace>(*this, threads);
  if (model_.latent.present) prepare_latent(space->context, latent_);
  workspace_ = space.release();
}

Engine::~Engine() {
  Workspace* space = workspace_;
  if (space->process == forks()) delete space;
}

Engine::Workspace::Workspace(const Engine& engine, int threads)
    : ropes(engine.model_.ropes.size()), workers(threads), pool(threads) {
  const Model& model = engine.model_;
  const Kernels* kernels = engine.kernels_;
  const bool narrow =
      model.precision != Precision::fp32 && kernels->attention_bf16 && even_heads(model);
  context = {&model, kernels, &ropes, &engine.latent_, narrow, narrow && kernels->attention_int8};
}

// In a forked child the parent's workspace may be in the middle of a run that no thread will finish.
// The child leaves it alone, not even freed, and computes on one thread, with the same results.
Engine::Workspace& Engine::workspace() {
  Workspace* found = workspace_;
  if (found->process == forks()) return *found;
  auto own = std::make_unique<Workspace>(*this, 1);
  // where two threads of the child come here together, both use that of the first
  return workspace_.compare_exchange_strong(found, own.get()) ? *own.release() : *found;
}

std::size_t Engine::workspace_bytes() {
  const Workspace& space = workspace();
  std::size_t total = space.common.bytes();
  for (const Worker& w : space.workers) total += w.activations.bytes() + w.scratch.bytes();
  return total;
}

void Engine::check(const Batch& batch, int tokens, const Outputs& out) const {
  const Embedding& e = model_.embedding;
  if (batch.starts[0] != 0) reject("cu_seqlens must begin with 0, got " + to_string(batch.starts[0]));
  for (int i = 0; i < batch.sequences; ++i) {
    const std::int64_t length = std::int64_t{batch.starts[i + 1]} - batch.starts[i];
    if (length < 0 || (length == 0 && !model_.layers.empty())) {
      reject("sequence " + to_string(i) + " has " + to_string(length) + " tokens, expected at least 1");
    }
    if (batch.starts[i + 1] > tokens) {
      reject("cu_seqlens[" + to_string(i + 1) + "] is " + to_string(batch.starts[i + 1]) +
             ", beyond the " + to_string(tokens) + " ids");
    }
    if (e.position != nullptr && length + e.position_offset > e.positions) {
      reject("sequence " + to_string(i) + " has " + to_string(length) + " tokens, the model takes " +
             to_string(e.positions - e.position_offset));
    }
    if (!model_.position_bias.values.empty() && length > model_.position_bias.positions) {
      reject("sequence " + to_string(i) + " has " + to_string(length) + " tokens, the model takes " +
             to_string(model_.position_bias.positions));
    }
    if (batch.attended != nullptr && (batch.attended[i] < 1 || batch.attended[i] > length)) {
      reject("attended[" + to_string(i) + "] is " + to_string(batch.attended[i]) +
             ", expected 1 to " + to_string(length));
    }
    const bool pooled = out.dense != nullptr || out.score != nullptr;
    if (pooled && (batch.pool_from[i] < 0 || batch.pool_from[i] >= std::max<std::int64_t>(length, 1))) {
      reject("pool_from[" + to_string(i) + "] is " + to_string(batch.pool_from[i]) +
             ", expected 0 to " + to_string(length - 1));
    }
  }
  if (batch.tokens() != tokens) {
    reject("cu_seqlens ends with " + to_string(batch.tokens()) + ", expected " + to_string(tokens) +
           ", the number of ids");
  }
  for (int t = 0; t < tokens; ++t) {
    if (batch.ids[t] < 0 || batch.ids[t] >= e.vocabulary) {
      reject("ids[" + to_string(t) + "] is " + to_string(batch.ids[t]) + ", expected 0 to " +
             to_string(e.vocabulary - 1));
    }
    if (e.type != nullptr && (batch.types[t] < 0 || batch.types[t] >= e.types)) {
      reject("type_ids[" + to_string(t) + "] is " + to_string(batch.types[t]) + ", expected 0 to " +
             to_string(e.types - 1));
    }
  }
}

void Engine::check_result(const Batch& batch, const Outputs& out) const {
  const std::size_t n = batch.sequences, t = batch.tokens();
  const bool good = (!out.dense || finite(out.dense, n * model_.dimension())) &&
                    (!out.sparse || finite(out.sparse, t)) &&
                    (!out.tokens || finite(out.tokens, t * model_.token_width)) &&
                    (!out.states || finite(out.states, t * model_.width())) &&
                    (!out.score || finite(out.score, n * model_.score.width()));
  if (!good) throw std::runtime_error("the result is not finite: the weights are damaged or overflow");
}

// Groups of whole sequences of about micro_tokens tokens; a long sequence is a group of its own.
std::vector<MicroBatch> Engine::cut(const Batch& batch, int members) const {
  // with little work, smaller groups keep all threads busy
  const int fair = (batch.tokens() + members - 1) / members;
  const bool little = members == 1 || fair <= 2 * micro_tokens_;
  const auto most = [&](int first) {
    if (little) return std::min(micro_tokens_, std::max(fair, 16));
    // the last groups are smaller, so that threads wait less for the last one
    const int left = batch.tokens() - batch.starts[first];
    return std::clamp(left / (2 * members), micro_tokens_ / 4, micro_tokens_);
  };
  std::vector<MicroBatch> micros;
  int first = 0;
  for (int i = 0; i < batch.sequences; ++i) {
    const bool full = batch.starts[i + 1] - batch.starts[first] > most(first);
    if (full && i > first) {
      micros.push_back({first, i});
      first = i;
    }
  }
  if (first < batch.sequences) micros.push_back({first, batch.sequences});
  return micros;
}

bool Engine::run(const Batch& batch, int tokens, const Outputs& out, std::function<bool()> poll) {
  check(batch, tokens, out);
  Workspace& space = workspace();
  while (!space.busy.try_lock_for(std::chrono::milliseconds(50))) {
    if (poll && poll()) return false;
  }
  std::lock_guard lock(space.busy, std::adopt_lock);
  if (batch.sequences == 0) return true;

  int longest = 0;
  for (int i = 0; i < batch.sequences; ++i) longest = std::max(longest, batch.length(i));
  for (std::size_t i = 0; i < space.ropes.size(); ++i) space.ropes[i].grow(model_.ropes[i], longest);

  Stop stop(std::move(poll));
  const int members = space.pool.size();
  // Micro-batches that keep every thread busy run independently, one per thread. The rest, a long
  // or a single one, is computed by all threads together.
  std::vector<MicroBatch> apart, together;
  const std::vector<MicroBatch> micros = cut(batch, members);
  const auto size = [&](const MicroBatch& m) { return batch.starts[m.last] - batch.starts[m.first]; };
  std::int64_t total = 0;
  int largest = 0;
  for (const MicroBatch& m : micros) {
    const bool big = members > 1 && size(m) > long_sequence;
    (big ? together : apart).push_back(m);
    if (big) continue;
    total += size(m);
    largest = std::max(largest, size(m));
  }
  // the last micro-batch to finish leaves the others idle for up to its own time
  const bool balanced = members == 1 || (std::int64_t{largest} * members * 4 <= total * 5 &&
                                         (apart.size() % members == 0 ||
                                          apart.size() >= 4u * members));
  if (!balanced) {
    together.insert(together.end(), apart.begin(), apart.end());
    apart.clear();
  }
  if (!apart.empty()) run_apart(space, batch, out, apart, stop);
  for (const MicroBatch& m : together) {
    if (!stop.requested()) run_together(space, batch, out, m, stop);
  }
  for (Worker& w : space.workers) {
    if (w.activations.bytes() > keep_bytes) w.activations.release();
  }
  if (stop.requested()) return false;
  check_result(batch, out);
  return true;
}

void Engine::run_apart(Workspace& space, const Batch& batch, const Outputs& out,
                       const std::vector<MicroBatch>& micros, Stop& stop) {
  int longest = 0;
  for (const MicroBatch& m : micros) {
    for (int i = m.first; i < m.last; ++i) longest = std::max(longest, batch.length(i));
    for (Worker& w : space.workers) w.activations.reserve(space.context, batch, m, out, false);
  }
  for (Worker& w : space.workers) w.scratch.reserve(space.context, longest);
  std::atomic<std::size_t> next{0};
  space.pool.run(space.pool.size(), [&](int member) {
    Worker& w = space.workers[member];
    for (std::size_t i = next++; i < micros.size(); i = next++) {
      Crew alone(nullptr, member, stop);
      if (!alone.proceed()) return;
      run_micro_batch(space.context, batch, micros[i], out, w.activations, w.scratch, w.scratch, alone);
    }
  });
}

void Engine::run_together(Workspace& space, const Batch& batch, const Outputs& out,
                          const MicroBatch& micro, Stop& stop) {
  int longest = 0;
  for (int i = micro.first; i < micro.last; ++i) longest = std::max(longest, batch.length(i));
  Activations& activations = space.workers[0].activations;
  activations.reserve(space.context, batch, micro, out, true);
  const int alone = std::min(longest, long_sequence);
  for (Worker& w : space.workers) w.scratch.reserve(space.context, alone);
  space.common.reserve(space.context, 1);
  space.team.reset(space.pool.size());
  space.pool.run(space.pool.size(), [&](int member) {
    run_micro_batch(space.context, batch, micro, out, activations, space.workers[member].scratch, space.common,
                    Crew(&space.team, member, stop));
  });
}

}  // namespace opengte
