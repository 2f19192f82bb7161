#include "threads.hpp"

#include <pthread.h>

#include <chrono>

namespace opengte {
namespace {

constexpr long long poll_every = 20'000'000;  // nanoseconds
constexpr int spins = 4000;                   // some tens of microseconds before yielding

long long now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::atomic<unsigned> fork_count{0};
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { ++fork_count; });

}  // namespace

unsigned forks() { return fork_count.load(std::memory_order_relaxed); }

Stop::Stop(std::function<bool()> poll) : poll_(std::move(poll)), last_(now()) {}

void Stop::check() {
  const long long time = now();
  if (time - last_ < poll_every) return;
  last_ = time;
  if (poll_ && poll_()) request();
}

std::int64_t Team::take(std::int64_t end) {
  std::int64_t next = taken_.load(std::memory_order_relaxed);
  while (next < end) {
    if (taken_.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) return next;
  }
  return -1;
}

void Team::wait(std::int64_t end) const {
  for (int i = 0; done_.load(std::memory_order_acquire) < end; ++i) {
    if (i < spins) pause();
    else std::this_thread::yield();
  }
}

ThreadPool::ThreadPool(int threads) {
  threads_.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) threads_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    quit_ = true;
    ticket_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (auto& t : threads_) t.join();
}

void ThreadPool::run(int members, const std::function<void(int)>& job) {
  if (members <= 1) {
    job(0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    job_ = &job;
    members_ = members;
    ticket_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  job(0);
  {
    std::lock_guard lock(mutex_);
    members_ = 0;
  }
  for (int i = 0; inside_.load(std::memory_order_acquire) != 0; ++i) {
    if (i < spins) pause();
    else std::this_thread::yield();
  }
}

void ThreadPool::work(int member) {
  unsigned seen = 0;
  for (;;) {
    for (int i = 0; i < spins && ticket_.load(std::memory_order_acquire) == seen; ++i) pause();
    const std::function<void(int)>* job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return ticket_.load(std::memory_order_acquire) != seen; });
      seen = ticket_.load(std::memory_order_acquire);
      if (quit_) return;
      if (member >= members_) continue;
      job = job_;
      inside_.fetch_add(1, std::memory_order_relaxed);
    }
    (*job)(member);
    inside_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace opengte
