// The dirty log and the binary statistics. Source: kernel document "The Definitive KVM API Documentation",
// KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, KVM_CAP_DIRTY_LOG_RING and KVM_GET_STATS_FD.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../harness/guest.h"

namespace nestbench::conformance {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kLogged = 0x40000;  // guest-physical
constexpr std::uint64_t kLoggedPages = 8;

// A slot of eight pages at kLogged beside the guest's own; DS begins there.
class DirtyLog : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    pages_ = HostMemory(kLoggedPages * kPage);
    auto sregs = vcpu().GetSregs();
    ASSERT_TRUE(sregs);
    sregs->ds.base = kLogged;
    ASSERT_TRUE(vcpu().SetSregs(*sregs));
    // mov byte [0x1005], 1; mov byte [0x3007], 1; out 0x10, al; and once more
    Load({0xC6, 0x06, 0x05, 0x10, 0x01, 0xC6, 0x06, 0x07, 0x30, 0x01, 0xE6, 0x10,  //
          0xC6, 0x06, 0x06, 0x10, 0x02, 0xE6, 0x10, 0xF4});
  }
  int Log(bool on) {
    return SetSlot(1, kLogged, kLoggedPages * kPage, pages_.data(), on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
  }
  // One bit for each page; the errno beside.
  std::pair<std::uint64_t, int> Get() {
    std::uint64_t bits = 0;
    kvm_dirty_log log = {};
    log.slot = 1;
    log.dirty_bitmap = &bits;
    const int error = ErrorOf(vm().fd(), KVM_GET_DIRTY_LOG, &log);
    return {bits, error};
  }
  static constexpr std::uint64_t kPages1And3 = 0b1010;

  std::span<std::byte> pages_;
};

NESTBENCH_CONDITION(kvm_api, DirtyLog, HoldsThePagesThatWereWritten, "KVM API, KVM_GET_DIRTY_LOG") {
  ASSERT_EQ(Log(true), 0);
  if (!RunTo<vmm::IoExit>()) return;
  const auto [bits, error] = Get();
  EXPECT_EQ(error, 0) << ErrorName(error);
  EXPECT_EQ(bits, kPages1And3);
}

NESTBENCH_CONDITION(kvm_api, DirtyLog, IsEmptyAgainOnceItWasRead, "KVM API, KVM_GET_DIRTY_LOG: since the last call") {
  ASSERT_EQ(Log(true), 0);
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Get().first, kPages1And3);
  EXPECT_EQ(Get().first, 0U);
}

NESTBENCH_CONDITION(kvm_api, DirtyLog, ANewWriteToThePageIsSeenAgain, "KVM API, KVM_GET_DIRTY_LOG") {
  ASSERT_EQ(Log(true), 0);
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Get().first, kPages1And3);
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Get().first, 0b10U);
}

NESTBENCH_CONDITION(kvm_api, DirtyLog, WritesOfTheHostAreNotInIt,
                    "KVM API, KVM_GET_DIRTY_LOG: pages dirtied by the guest") {
  ASSERT_EQ(Log(true), 0);
  pages_[0] = std::byte{1};
  pages_[5 * kPage] = std::byte{1};
  EXPECT_EQ(Get().first, 0U);
}

NESTBENCH_CONDITION(kvm_api, DirtyLog, StartsWhenItIsTurnedOn,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: KVM_MEM_LOG_DIRTY_PAGES") {
  ASSERT_EQ(Log(false), 0);
  if (!RunTo<vmm::IoExit>()) return;
  ASSERT_EQ(Log(true), 0);
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Get().first, 0b10U) << "only what was written since";
}

NESTBENCH_CONDITION(kvm_api, DirtyLog, OfASlotWithoutOneIsRefused, "virt/kvm/kvm_main.c, kvm_get_dirty_log: ENOENT") {
  ASSERT_EQ(Log(false), 0);
  EXPECT_TRUE(FailsWith(Get().second, {ENOENT}));
}

NESTBENCH_CONDITION(kvm_api, DirtyLog, OfASlotThatDoesNotExistIsRefused, "virt/kvm/kvm_main.c, kvm_get_dirty_log") {
  EXPECT_TRUE(FailsWith(Get().second, {ENOENT}));
  kvm_dirty_log log = {};
  log.slot = 0xFFFF;
  std::uint64_t bits = 0;
  log.dirty_bitmap = &bits;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_GET_DIRTY_LOG, &log), {EINVAL}));
}

class ManualDirtyLog : public DirtyLog {
 protected:
  void SetUp() override {
    DirtyLog::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const int flags = vm().CheckCapability(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    Evidence("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", flags);
    if (flags == 0) GTEST_SKIP() << "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is 0";
    kvm_enable_cap enable = {};
    enable.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    enable.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    ASSERT_EQ(ErrorOf(vm().fd(), KVM_ENABLE_CAP, &enable), 0);
    ASSERT_EQ(Log(true), 0);
  }
  int Clear(std::uint64_t first, std::uint32_t pages, std::uint64_t bits) {
    kvm_clear_dirty_log clear = {};
    clear.slot = 1;
    clear.first_page = first;
    clear.num_pages = pages;
    clear.dirty_bitmap = &bits;
    return ErrorOf(vm().fd(), KVM_CLEAR_DIRTY_LOG, &clear);
  }
};

NESTBENCH_CONDITION(kvm_api, ManualDirtyLog, ReadingDoesNotClear, "KVM API, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2") {
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Get().first, kPages1And3);
  EXPECT_EQ(Get().first, kPages1And3);
}

NESTBENCH_CONDITION(kvm_api, ManualDirtyLog, ClearsThePagesThatAreNamed, "KVM API, KVM_CLEAR_DIRTY_LOG") {
  if (!RunTo<vmm::IoExit>()) return;
  ASSERT_EQ(Get().first, kPages1And3);
  EXPECT_EQ(Clear(0, kLoggedPages, 0b10), 0);
  EXPECT_EQ(Get().first, 0b1000U);
}

NESTBENCH_CONDITION(kvm_api, ManualDirtyLog, APageThatWasNotClearedIsNotLost, "KVM API, KVM_CLEAR_DIRTY_LOG") {
  if (!RunTo<vmm::IoExit>()) return;
  ASSERT_EQ(Get().first, kPages1And3);
  ASSERT_EQ(Clear(0, kLoggedPages, 0b10), 0);
  if (!RunTo<vmm::IoExit>()) return;  // writes page 1 again
  EXPECT_EQ(Get().first, kPages1And3);
}

NESTBENCH_CONDITION(kvm_api, ManualDirtyLog, TheFirstPageIsAMultipleOf64, "KVM API, KVM_CLEAR_DIRTY_LOG: EINVAL") {
  EXPECT_TRUE(FailsWith(Clear(1, kLoggedPages - 1, 1), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, ManualDirtyLog, PagesBeyondTheSlotAreRefused, "KVM API, KVM_CLEAR_DIRTY_LOG: EINVAL") {
  EXPECT_TRUE(FailsWith(Clear(0, kLoggedPages * 2, 1), {EINVAL}));
  EXPECT_TRUE(FailsWith(Clear(64, kLoggedPages, 1), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, ManualDirtyLog, ClearingNeedsItsCapability, "KVM API, KVM_CLEAR_DIRTY_LOG") {
  auto other = vmm::Vm::Create(device());
  ASSERT_TRUE(other) << other.error().ToString();
  std::uint64_t bits = 1;
  kvm_clear_dirty_log clear = {};
  clear.num_pages = kLoggedPages;
  clear.dirty_bitmap = &bits;
  EXPECT_NE(ErrorOf(other->fd(), KVM_CLEAR_DIRTY_LOG, &clear), 0);
}

class DirtyRing : public VmTest {
 protected:
  int Enable(std::uint64_t bytes) {
    kvm_enable_cap enable = {};
    enable.cap = KVM_CAP_DIRTY_LOG_RING;
    enable.args[0] = bytes;
    return ErrorOf(vm().fd(), KVM_ENABLE_CAP, &enable);
  }
};

NESTBENCH_CONDITION(kvm_api, DirtyRing, ItsSizeIsAPowerOfTwo, "KVM API, KVM_CAP_DIRTY_LOG_RING: size") {
  if (Lacks(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING")) return;
  EXPECT_TRUE(FailsWith(Enable(3 * sizeof(kvm_dirty_gfn) * 1024), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, DirtyRing, ItsSizeIsAtMostTheCapabilitysValue, "KVM API, KVM_CAP_DIRTY_LOG_RING: size") {
  const int most = vm().CheckCapability(KVM_CAP_DIRTY_LOG_RING);
  Evidence("KVM_CAP_DIRTY_LOG_RING", most);
  if (most <= 0) GTEST_SKIP() << "KVM_CAP_DIRTY_LOG_RING is " << most;
  EXPECT_NE(Enable(static_cast<std::uint64_t>(most) * 2), 0);
  EXPECT_EQ(Enable(static_cast<std::uint64_t>(most)), 0);
}

NESTBENCH_CONDITION(kvm_api, DirtyRing, IsEnabledBeforeTheVcpus,
                    "KVM API, KVM_CAP_DIRTY_LOG_RING: before vCPUs are created") {
  if (Lacks(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING")) return;
  ASSERT_GE(::ioctl(vm().fd(), KVM_CREATE_VCPU, 0), 0);
  EXPECT_TRUE(FailsWith(Enable(sizeof(kvm_dirty_gfn) * 1024), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, DirtyRing, ResettingNeedsARing, "KVM API, KVM_RESET_DIRTY_RINGS: EINVAL") {
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_RESET_DIRTY_RINGS), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, DirtyRing, ReplacesTheBitmap, "KVM API, KVM_CAP_DIRTY_LOG_RING: KVM_GET_DIRTY_LOG fails") {
  if (Lacks(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING")) return;
  ASSERT_EQ(Enable(sizeof(kvm_dirty_gfn) * 1024), 0);
  const auto pages = HostMemory(kPage);
  ASSERT_EQ(SetSlot(0, 0, kPage, pages.data(), KVM_MEM_LOG_DIRTY_PAGES), 0);
  std::uint64_t bits = 0;
  kvm_dirty_log log = {};
  log.dirty_bitmap = &bits;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_GET_DIRTY_LOG, &log), {ENXIO}));
}

class Statistics : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    if (!IsSkipped() && Lacks(KVM_CAP_BINARY_STATS_FD, "KVM_CAP_BINARY_STATS_FD")) return;
  }
};

NESTBENCH_CONDITION(kvm_api, Statistics, CountTheExitsOfAVcpu, "KVM API, KVM_GET_STATS_FD: exits") {
  if (IsSkipped()) return;
  auto stats = vcpu().Stats();
  ASSERT_TRUE(stats) << stats.error().ToString();
  const auto before = stats->Get("exits");
  ASSERT_TRUE(before) << before.error().ToString();
  Load({0xE6, 0x10, 0xE6, 0x10, 0xE6, 0x10, 0xF4});
  for (int i = 0; i < 3; ++i) {
    if (!RunTo<vmm::IoExit>()) return;
  }
  const auto after = stats->Get("exits");
  ASSERT_TRUE(after);
  Evidence("exits", static_cast<long long>(*after - *before));
  EXPECT_GE(*after, *before + 3);
}

NESTBENCH_CONDITION(kvm_api, Statistics, OfTheVmAreThereToo, "KVM API, KVM_GET_STATS_FD as a VM ioctl") {
  if (IsSkipped()) return;
  const auto stats = vm().Stats();
  EXPECT_TRUE(stats) << stats.error().ToString();
}

}  // namespace
}  // namespace nestbench::conformance
