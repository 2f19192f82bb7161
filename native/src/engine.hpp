// One loaded model: checks batches, cuts them into micro-batches and shares them among threads.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "forward.hpp"

namespace opengte {

class Engine {
 public:
  // micro_tokens: tokens that one thread takes through all layers at a time.
  Engine(Model model, const Kernels* kernels, int threads, int micro_tokens);

  // Throws std::invalid_argument for a batch that cannot be computed, std::runtime_error when the
  // result is not finite. Returns false if `poll`, called from time to time, returned true.
  bool run(const Batch& batch, int tokens, const Outputs& out, std::function<bool()> poll);

  const Model& model() const { return model_; }
  const Kernels& kernels() const { return *kernels_; }
  int threads() const { return threads_; }
  std::size_t workspace_bytes() const;

 private:
  struct Worker {
    Activations activations;
    Scratch scratch;
  };

  void check(const Batch& batch, int tokens, const Outputs& out) const;
  void check_result(const Batch& batch, const Outputs& out) const;
  std::vector<MicroBatch> cut(const Batch& batch, int members) const;
  void run_apart(const Batch& batch, const Outputs& out, const std::vector<MicroBatch>& micros,
                 int members, Stop& stop);
  void run_together(const Batch& batch, const Outputs& out, const MicroBatch& micro, int members,
                    Stop& stop);

  Model model_;
  const Kernels* kernels_;
  int threads_, micro_tokens_;
  std::vector<RopeTable> ropes_;
  LatentKeys latent_;
  Context context_{};
  std::vector<Worker> workers_;
  Scratch common_;
  Team team_;
  std::unique_ptr<ThreadPool> pool_;
  std::timed_mutex busy_;
};

}  // namespace opengte
