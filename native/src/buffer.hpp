// A 64-byte aligned block of memory that only grows: workspaces stop allocating once warm.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace opengte {

class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() { std::free(data_); }

  void reserve(std::size_t bytes) {
    bytes = (bytes + slack + 63) / 64 * 64;
    if (bytes <= bytes_) return;
    std::free(data_);
    data_ = nullptr, bytes_ = 0;
    data_ = std::aligned_alloc(64, bytes);
    if (data_ == nullptr) throw std::bad_alloc();
    bytes_ = bytes;
  }
  void release() {
    std::free(data_);
    data_ = nullptr, bytes_ = 0;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t slack = 64;  // whole vectors may be read at the end
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace opengte
