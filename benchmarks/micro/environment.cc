#include "environment.h"

#include <chrono>

#include "nestbench/substrates/substrate.h"

namespace nestbench::micro {
namespace {}  // namespace

const vmm::KvmDevice& Environment::device() {
  if (!device_) {
    auto opened = vmm::KvmDevice::Open();
    if (!opened) throw Unsupported(opened.error().ToString());
    device_.emplace(std::move(*opened));
  }
  return *device_;
}

const floor::RawKvm& Environment::raw_kvm() {
  if (!raw_kvm_) {
    try {
      raw_kvm_ = std::make_unique<floor::RawKvm>();
    } catch (const floor::RawError& error) {
      throw Unsupported(error.what());
    }
  }
  return *raw_kvm_;
}

std::span<const std::byte> Environment::exits_image() {
  if (!exits_image_) exits_image_.emplace(Take(vmm::LoadedFile::Read(images_ / "exits.elf", vmm::kMaxImageFileBytes)));
  return exits_image_->bytes();
}

abi::Doorbell Environment::doorbell() {
  if (!doorbell_) {
    device();
    doorbell_ = Take(substrates::ChooseDoorbell(exits_image(), std::chrono::seconds(5)));
  }
  return *doorbell_;
}

int Environment::helper_cpu() const {
  if (helper_cpu_ < 0) throw Unsupported("a second thread needs a CPU of its own; this process may use only one");
  return helper_cpu_;
}

}  // namespace nestbench::micro
