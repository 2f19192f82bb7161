// One loaded model: checks batches, cuts them into micro-batches and shares them among threads.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>

#include "forward.hpp"

namespace opengte {

class Engine {
 public:
  // micro_tokens: tokens that one thread takes through all layers at a time.
  Engine(Model model, const Kernels* kernels, int threads, int micro_tokens);
  ~Engine();

  // Throws std::invalid_argument for a batch that cannot be computed, std::runtime_error when the
  // result is not finite. Returns false if `poll`, called from time to time, returned true.
  bool run(const Batch& batch, int tokens, const Outputs& out, std::function<bool()> poll);

  const Model& model() const { return model_; }
  const Kernels& kernels() const { return *kernels_; }
  int threads() const { return threads_; }
  std::size_t workspace_bytes();

 private:
  struct Worker {
    Activations activations;
    Scratch scratch;
  };

  // Everything that a run changes.
  struct Workspace {
    Workspace(const Engine& engine, int threads);
    const unsigned process = forks();
    std::vector<RopeTable> ropes;
    std::vector<Worker> workers;
    Scratch common;
    Team team;
    ThreadPool pool;
    std::timed_mutex busy;
    Context context;
  };

  Workspace& workspace();

  void check(const Batch& batch, int tokens, const Outputs& out) const;
  void check_result(const Batch& batch, const Outputs& out) const;
  std::vector<MicroBatch> cut(const Batch& batch, int members) const;
  static void run_apart(Workspace& space, const Batch& batch, const Outputs& out,
                        const std::vector<MicroBatch>& micros, Stop& stop);
  static void run_together(Workspace& space, const Batch& batch, const Outputs& out,
                           const MicroBatch& micro, Stop& stop);

  Model model_;
  const Kernels* kernels_;
  int threads_, micro_tokens_;
  LatentKeys latent_;
  std::atomic<Workspace*> workspace_{nullptr};
};

}  // namespace opengte
