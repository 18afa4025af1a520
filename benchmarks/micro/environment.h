// What all benchmarks of nestbench_micro share, and how they say that they cannot run.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "nestbench/abi/mailbox.h"
#include "nestbench/floor/raw_vm.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::micro {

// A benchmark that went wrong; the text becomes its error message.
class Broken : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A benchmark that cannot run on this host; the text says why and becomes "unsupported: <text>".
class Unsupported : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The value of a Result, or Broken; Unsupported for what the host cannot do.
template <typename T>
T Take(vmm::Result<T> result) {
  if (!result) {
    if (result.error().kind == vmm::ErrorKind::kUnsupported) throw Unsupported(result.error().ToString());
    throw Broken(result.error().ToString());
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Opens what it hands out at first use, so that benchmarks can be listed without /dev/kvm and without images. One
// thread.
class Environment {
 public:
  // `images`: folder of *.elf. `cpu`: what this thread was pinned to, -1 when it was not. `helper_cpu`: another one
  // that this process may use, -1 where there is none.
  Environment(std::filesystem::path images, int cpu, int helper_cpu)
      : images_(std::move(images)), cpu_(cpu), helper_cpu_(helper_cpu) {}

  // /dev/kvm through vmm-core, and as a bare descriptor. Unsupported where it cannot be opened.
  const vmm::KvmDevice& device();
  const floor::RawKvm& raw_kvm();

  // The payload image `exits`. Broken, naming the file, when it cannot be read.
  std::span<const std::byte> exits_image();

  // The doorbell that works for user code of a guest here, found once. Unsupported where none does.
  abi::Doorbell doorbell();

  [[nodiscard]] int cpu() const { return cpu_; }
  // The CPU for a second thread. Unsupported where there is none.
  [[nodiscard]] int helper_cpu() const;

 private:
  std::filesystem::path images_;
  int cpu_;
  int helper_cpu_;
  std::optional<vmm::KvmDevice> device_;
  std::unique_ptr<floor::RawKvm> raw_kvm_;
  std::optional<vmm::LoadedFile> exits_image_;
  std::optional<abi::Doorbell> doorbell_;
};

}  // namespace nestbench::micro
