// The engine's threads, and the two ways of sharing work between them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace opengte {

// Called from time to time by the calling thread; true means stop. Other threads see the flag.
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

// Distributes pieces of work to threads that run the same code together. Both counters only grow:
// items taken and items done since the beginning. A piece ends when its items are done, not when all
// threads have arrived, so that a thread whose core is used by another process delays nobody: it
// finds the pieces that it missed done, and catches up.
class Team {
 public:
  void reset(int size) {
    size_ = size;
    taken_.store(0);
    done_.store(0);
  }
  int size() const { return size_; }
  // The next item below `end`, or -1 when all are taken.
  std::int64_t take(std::int64_t end);
  void done() { done_.fetch_add(1, std::memory_order_acq_rel); }
  void wait(std::int64_t end) const;  // until the items below `end` are done

 private:
  int size_ = 1;
  alignas(64) std::atomic<std::int64_t> taken_{0};
  alignas(64) std::atomic<std::int64_t> done_{0};
};

// Items of a shared piece between two reads of the clock: an item may be one row, or some
// milliseconds of attention.
inline constexpr int items_between_looks = 4;

// The threads that a piece of code runs on: one thread, or a team. All members of a team must make
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
      // long items check the flag themselves: reading the clock for every row would cost 1 %
      if (!proceed()) return;
      for (int i = 0; i < n; ++i) f(i);
      return;
    }
    // a member that sees the flag leaves: the others can finish a piece without it, and see it soon
    if (!proceed()) return;
    const std::int64_t first = begun_;
    begun_ += n;
    int taken = 0;
    for (std::int64_t i = team_->take(begun_); i >= 0; i = team_->take(begun_)) {
      if (member_ == 0 && ++taken % items_between_looks == 0) stop_.check();
      if (!stopped()) f(static_cast<int>(i - first));
      team_->done();
      if (stopped()) return;
    }
    team_->wait(begun_);
  }

  bool proceed() {
    if (member_ == 0) stop_.check();
    return !stop_.requested();
  }

 private:
  Team* team_;
  int member_;
  Stop& stop_;
  std::int64_t begun_ = 0;  // items of the pieces so far, the same for all members
};

// The number of forks between the process that loaded this library and the calling one. What was
// made at another number belongs to another process: its threads do not exist here, and its locks and
// buffers are as they were at that moment.
unsigned forks();

// A fixed set of threads; the caller is member 0. One job at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  // Runs job(member) on the caller and on the members that arrive before the caller has finished,
  // and returns when all of these have returned. A job must be complete when any one member returns
  // from it. Jobs must not throw.
  void run(int members, const std::function<void(int)>& job);

 private:
  void work(int member);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  std::atomic<unsigned> ticket_{0};
  std::atomic<int> inside_{0};
  int members_ = 0;  // 0: no job, or too late to join it
  bool quit_ = false;
};

}  // namespace opengte
