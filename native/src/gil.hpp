// Python's global lock, given up while the engine computes.
#pragma once

#include <nanobind/nanobind.h>
#include <unistd.h>

namespace opengte {

// Gives up the lock for a scope. Before 3.14, CPython ends a daemon thread that asks for the lock
// while the interpreter shuts down by unwinding its stack, and C++ answers that with std::terminate.
// Here such a thread sleeps until the process has ended, as it does from 3.14.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { take(); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

  // Returns f(), called with the lock by the thread that gave it up.
  template <class F>
  auto with_gil(F&& f) {
    take();
    const auto result = f();
    state_ = PyEval_SaveThread();
    return result;
  }

 private:
  void take() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

  PyThreadState* state_;
};

}  // namespace opengte
