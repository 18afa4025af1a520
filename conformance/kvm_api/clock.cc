// The clock of a VM. Source: kernel document "The Definitive KVM API Documentation", KVM_GET_CLOCK, KVM_SET_CLOCK and
// KVM_CAP_ADJUST_CLOCK.
#include <cerrno>
#include <cstdint>

#include "../harness/guest.h"

namespace nestbench::conformance {
namespace {

class Clock : public VcpuTest {
 protected:
  void SetUp() override {
    VcpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (Lacks(KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK")) return;
  }
  kvm_clock_data Get() {
    kvm_clock_data data = {};
    EXPECT_EQ(ErrorOf(vm().fd(), KVM_GET_CLOCK, &data), 0);
    return data;
  }
  int Set(std::uint64_t clock_ns, std::uint32_t flags = 0) {
    kvm_clock_data data = {};
    data.clock = clock_ns;
    data.flags = flags;
    return ErrorOf(vm().fd(), KVM_SET_CLOCK, &data);
  }
};

NESTBENCH_CONDITION(kvm_api, Clock, Runs, "KVM API, KVM_GET_CLOCK: the current value, in ns") {
  const std::uint64_t before = Get().clock;
  const std::uint64_t after = Get().clock;
  EXPECT_GE(after, before);
  EXPECT_NE(after, 0U);
}
NESTBENCH_CONDITION(kvm_api, Clock, GoesOnFromWhatWasSet, "KVM API, KVM_SET_CLOCK") {
  constexpr std::uint64_t kFuture = 1ULL << 50;           // thirteen days
  constexpr std::uint64_t kSoon = 60ULL * 1'000'000'000;  // a minute, for a host that is busy
  ASSERT_EQ(Set(kFuture), 0);
  const std::uint64_t now = Get().clock;
  EXPECT_GE(now, kFuture);
  EXPECT_LT(now, kFuture + kSoon);
}
NESTBENCH_CONDITION(kvm_api, Clock, TellsNoFlagThatTheCapabilityDoesNotPromise,
                    "KVM API, KVM_GET_CLOCK: KVM_CHECK_EXTENSION returns the bits that can be set in flags") {
  const auto promised = static_cast<std::uint32_t>(vm().CheckCapability(KVM_CAP_ADJUST_CLOCK));
  const std::uint32_t flags = Get().flags;
  Evidence("flags", flags);
  EXPECT_EQ(flags & ~promised, 0U);
}
NESTBENCH_CONDITION(kvm_api, Clock, UnknownFlagsAreRefused, "KVM API, KVM_SET_CLOCK: EINVAL") {
  EXPECT_TRUE(FailsWith(Set(1, 1U << 31), {EINVAL}));
}

}  // namespace
}  // namespace nestbench::conformance
