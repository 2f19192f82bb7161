// The engine's threads, and the two ways of sharing work between them.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace opengte {

// Asked now and then by the calling thread; true: stop. Other threads see the flag.
class Stop {
 public:
  explicit Stop(std::function<bool()> poll);
  bool requested() const { return flag_.load(std::memory_order_relaxed); }
  void request() { flag_.store(true, std::memory_order_relaxed); }
  void check();  // from the calling thread only

 private:
  std::function<bool()> poll_;
  std::atomic<bool> flag_{false};
  long long last_;
};

// Threads that run one piece of code together and meet at barriers.
class Team {
 public:
  void reset(int size) {
    size_ = size;
    next_.store(0);
    arrived_.store(0);
  }
  int size() const { return size_; }
  int take() { return next_.fetch_add(1, std::memory_order_relaxed); }
  void barrier();  // also hands out work from the beginning again

 private:
  int size_ = 1;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};

// What a piece of code runs on: one thread alone, or all of a team. All members of a team must make
// the same calls in the same order.
class Crew {
 public:
  Crew(Team* team, int member, Stop& stop) : team_(team), member_(member), stop_(stop) {}
  int size() const { return team_ == nullptr ? 1 : team_->size(); }
  int member() const { return member_; }
  bool leads() const { return team_ == nullptr || member_ == 0; }
  Crew alone() const { return Crew(nullptr, member_, stop_); }
  bool stopped() const { return stop_.requested(); }

  // f(i) for i in 0..n-1, each once, by any member; returns when all are done.
  template <class F>
  void each(int n, F&& f) {
    if (team_ == nullptr || team_->size() == 1) {
      for (int i = 0; i < n && proceed(); ++i) f(i);
      return;
    }
    for (int i = team_->take(); i < n; i = team_->take()) {
      if (proceed()) f(i);
    }
    team_->barrier();
  }

  bool proceed() {
    if (member_ == 0) stop_.check();
    return !stop_.requested();
  }

 private:
  Team* team_;
  int member_;
  Stop& stop_;
};

// A fixed set of threads; the caller is member 0. One job at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Threads do not survive a fork: a child computes alone, with the same results.
  int size() const;
  // Runs job(member) on every member and returns when all have returned. Jobs must not throw.
  void run(int members, const std::function<void(int)>& job);

 private:
  void work(int member);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<unsigned> ticket_{0};
  std::atomic<int> running_{0};
  int members_ = 0;
  bool quit_ = false;
  pid_t owner_;
};

}  // namespace opengte
