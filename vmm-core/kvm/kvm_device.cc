#include "nestbench/vmm/kvm/kvm_device.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "ioctl.h"

namespace nestbench::vmm {
namespace {

// KVM_GET_MSR_INDEX_LIST and its feature twin answer E2BIG with the needed count when the list is too short.
Result<std::vector<std::uint32_t>> ReadIndexList(int fd, internal::Request request) {
  std::uint32_t count = 256;
  for (int attempt = 0; attempt < 4; ++attempt) {
    std::vector<std::uint32_t> words(1 + count);
    words[0] = count;
    if (::ioctl(fd, request.number, words.data()) == 0) {
      words.resize(1 + words[0]);
      words.erase(words.begin());
      return words;
    }
    if (errno != E2BIG) return Fail(Error::System(request.name, errno));
    count = words[0];
  }
  return Fail(Error::System(request.name, E2BIG, "the list kept growing"));
}

}  // namespace

Result<KvmDevice> KvmDevice::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return Fail(Error::System("open", errno, path));
  auto version = internal::Call(fd.get(), NESTBENCH_KVM_REQUEST(KVM_GET_API_VERSION));
  if (!version) return Fail(std::move(version.error()));
  if (*version != KVM_API_VERSION) {
    return Fail(
        Error::Unsupported("KVM_GET_API_VERSION", fmt::format("version {}, not {}", *version, KVM_API_VERSION)));
  }
  auto mmap_bytes = internal::Call(fd.get(), NESTBENCH_KVM_REQUEST(KVM_GET_VCPU_MMAP_SIZE));
  if (!mmap_bytes) return Fail(std::move(mmap_bytes.error()));
  if (static_cast<std::size_t>(*mmap_bytes) < sizeof(kvm_run)) {
    return Fail(
        Error::Unsupported("KVM_GET_VCPU_MMAP_SIZE", fmt::format("{} bytes are less than kvm_run", *mmap_bytes)));
  }
  return KvmDevice(std::move(fd), static_cast<std::size_t>(*mmap_bytes));
}

int KvmDevice::CheckCapability(int capability) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
  return value < 0 ? 0 : value;
}

Result<CpuidPolicy> KvmDevice::SupportedCpuid() const {
  return CpuidPolicy::Read(fd_.get(), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID");
}

Result<std::vector<std::uint32_t>> KvmDevice::MsrIndices() const {
  return ReadIndexList(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_GET_MSR_INDEX_LIST));
}

Result<std::vector<std::uint32_t>> KvmDevice::FeatureMsrIndices() const {
  return ReadIndexList(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_GET_MSR_FEATURE_INDEX_LIST));
}

Result<std::uint64_t> KvmDevice::ReadFeatureMsr(std::uint32_t index) const {
  internal::OneMsr request;
  request.entry.index = index;
  const int done = ::ioctl(fd_.get(), KVM_GET_MSRS, &request);
  if (done < 0) return Fail(Error::System("KVM_GET_MSRS", errno, fmt::format("feature MSR {:#x}", index)));
  if (done != 1) return Fail(Error::Unsupported("KVM_GET_MSRS", fmt::format("feature MSR {:#x} is refused", index)));
  return request.entry.data;
}

}  // namespace nestbench::vmm
