// Work without Python's lock.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <chrono>

namespace janus_fast {

// An exception that Python has been told of.
struct Raised {};

// Lets other threads have Python's lock. When the interpreter ends, a daemon thread does not get it back: Python before
// 3.14 ends the thread by unwinding its stack, which aborts the process where C++ forbids exceptions. It stays here for
// the rest of the process instead, as it does in Python 3.14.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    python([&] { PyEval_RestoreThread(state_); });
  }

  // run(), which returns whether Python raised nothing, with Python's lock; throws Raised otherwise.
  template <typename F>
  void with_lock(const F& run) {
    bool raised = false;
    python([&] {
      PyEval_RestoreThread(state_);
      raised = !run();
      state_ = PyEval_SaveThread();
    });
    if (raised) throw Raised();
  }

  // Ten times a second at most: handles Python's signals, which it does on its main thread alone, and calls `check`,
  // which may be None; throws Raised when either raised.
  void look(PyObject* check) {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    with_lock([&] {
      PyObject* result = PyErr_CheckSignals() ? nullptr : PyObject_CallNoArgs(check);
      Py_XDECREF(result);
      return result != nullptr;
    });
  }

 private:
  template <typename F>
  static void python(const F& run) {
    try {
      run();
    } catch (...) {
      for (;;) ::pause();
    }
  }
  PyThreadState* state_;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
};

}  // namespace janus_fast
