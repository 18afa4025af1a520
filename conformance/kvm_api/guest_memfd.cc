// Guest memory that only guests map. Source: kernel document "The Definitive KVM API Documentation",
// KVM_CREATE_GUEST_MEMFD.
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "../harness/guest.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::conformance {
namespace {

// Linux 6.8, include/uapi/linux/kvm.h: newer than the headers that this is built with.
constexpr int kCapGuestMemfd = 234;
struct CreateGuestMemfd {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t reserved[6];
};
constexpr unsigned long kCreateGuestMemfd = _IOWR(KVMIO, 0xd4, CreateGuestMemfd);
constexpr std::uint64_t kBytes = 1ULL << 20;

class GuestMemfd : public VmTest {
 protected:
  [[nodiscard]] bool IsThere() { return vm().CheckCapability(kCapGuestMemfd) > 0; }
  // A descriptor, or -1 and errno.
  int Create(std::uint64_t bytes, std::uint64_t flags = 0) {
    CreateGuestMemfd request = {.size = bytes, .flags = flags, .reserved = {}};
    return ::ioctl(vm().fd(), kCreateGuestMemfd, &request);
  }
  // Skips the test; call it as `if (Missing()) return;`.
  [[nodiscard]] bool Missing() {
    if (IsThere()) return false;
    [] { GTEST_SKIP() << "KVM_CAP_GUEST_MEMFD is 0 for a VM of this type"; }();
    return true;
  }
};

NESTBENCH_CONDITION(kvm_api, GuestMemfd, WithoutItsCapabilityThereIsNone,
                    "KVM API, KVM_CREATE_GUEST_MEMFD: KVM_CAP_GUEST_MEMFD") {
  if (IsThere()) GTEST_SKIP() << "KVM_CAP_GUEST_MEMFD is there";
  EXPECT_EQ(Create(kBytes), -1);
  EXPECT_TRUE(FailsWith(errno, {ENOTTY, EINVAL}));
}
NESTBENCH_CONDITION(kvm_api, GuestMemfd, IsAFileOfItsOwn, "KVM API, KVM_CREATE_GUEST_MEMFD: returns a descriptor") {
  if (Missing()) return;
  const vmm::UniqueFd file(Create(kBytes));
  EXPECT_TRUE(file.valid()) << ErrorName(errno);
}
NESTBENCH_CONDITION(kvm_api, GuestMemfd, ASizeInsideAPageIsRefused,
                    "KVM API, KVM_CREATE_GUEST_MEMFD: size is a multiple of pages") {
  if (Missing()) return;
  EXPECT_EQ(Create(kBytes + 1), -1);
  EXPECT_TRUE(FailsWith(errno, {EINVAL}));
}
NESTBENCH_CONDITION(kvm_api, GuestMemfd, UnknownFlagsAreRefused, "KVM API, KVM_CREATE_GUEST_MEMFD: flags") {
  if (Missing()) return;
  EXPECT_EQ(Create(kBytes, 1ULL << 40), -1);
  EXPECT_TRUE(FailsWith(errno, {EINVAL}));
}
NESTBENCH_CONDITION(kvm_api, GuestMemfd, CannotBeReadByTheHost,
                    "KVM API, KVM_CREATE_GUEST_MEMFD: no read, no write from user space") {
  if (Missing()) return;
  const vmm::UniqueFd file(Create(kBytes));
  ASSERT_TRUE(file.valid()) << ErrorName(errno);
  char byte = 0;
  EXPECT_EQ(::read(file.get(), &byte, 1), -1);
}

}  // namespace
}  // namespace nestbench::conformance
