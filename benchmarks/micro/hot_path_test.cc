// The library adds no allocation, and no system call but KVM_RUN, to an exit. Both are counted from outside the
// library.
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "allocation_counter.h"
#include "code_image.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/machine/user_machine.h"
#include "system_call_trace.h"

namespace nestbench::micro {
namespace {

using vmm::KvmDevice;
using vmm::RunDeadline;
using vmm::StopReason;
using vmm::UserMachine;

constexpr std::chrono::seconds kLimit{20};
constexpr std::uint64_t kStops = 100;

// A guest that does the same for ever, ringing the doorbell once each time.
struct HotGuest {
  const char* name;
  std::vector<std::uint8_t> code;
  std::uint64_t exits_per_ring;
};

const std::vector<HotGuest>& HotGuests() {
  static const std::vector<HotGuest> kGuests = {
      {"DoorbellByPort",
       {0xBA, 0x20, 0x0B, 0x00, 0x00,  // mov edx, kDoorbellPort
        0xEF, 0xEB, 0xFD},             // 1: out dx, eax; jmp 1b
       1},
      {"DoorbellByPage",
       {0xB9, 0x00, 0x00, 0x00, 0xD0,  // mov ecx, kDoorbellPage
        0x89, 0x01, 0xEB, 0xFC},       // 1: mov [rcx], eax; jmp 1b
       1},
      {"OtherDeviceWrittenAndRead",
       {0xBA, 0xFF, 0x03, 0x00, 0x00, 0xEE,  // 1: mov edx, kSerialPort + 7 (scratch); out dx, al
        0xBA, 0xFD, 0x03, 0x00, 0x00, 0xEC,  // mov edx, kSerialPort + 5 (line status); in al, dx
        0xBA, 0x20, 0x0B, 0x00, 0x00, 0xEF,  // mov edx, kDoorbellPort; out dx, eax
        0xEB, 0xEC},                         // jmp 1b
       3},
      {"PortWithoutDevice",
       {0xBA, 0x24, 0x0B, 0x00, 0x00, 0xEF,  // 1: mov edx, kEventPort (no ioeventfd is attached); out dx, eax
        0xBA, 0x20, 0x0B, 0x00, 0x00, 0xEF,  // mov edx, kDoorbellPort; out dx, eax
        0xEB, 0xF2},                         // jmp 1b
       2},
  };
  return kGuests;
}

// Rings `count` times; an error text or nothing.
std::string RingTimes(UserMachine& machine, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    auto stop = machine.RunUntilStop();
    if (!stop) return stop.error().ToString();
    if (stop->reason != StopReason::kDoorbell) return "the guest did not ring: " + stop->text;
  }
  return {};
}

class HotPathTest : public ::testing::TestWithParam<HotGuest> {
 protected:
  void SetUp() override {
    auto device = KvmDevice::Open();
    if (!device) GTEST_SKIP() << device.error().ToString();
    image_ = MakeCodeImage(GetParam().code);
  }

  std::vector<std::byte> image_;
};

TEST_P(HotPathTest, AllocatesNothing) {
  auto device = KvmDevice::Open();
  ASSERT_TRUE(device) << device.error().ToString();
  auto machine = UserMachine::Create(*device, image_, {});
  ASSERT_TRUE(machine) << machine.error().ToString();
  auto deadline = RunDeadline::Start(machine->vcpu(), kLimit);
  ASSERT_TRUE(deadline) << deadline.error().ToString();
  ASSERT_EQ(RingTimes(*machine, 1), "");
  const std::uint64_t before = AllocationCount();
  const std::string error = RingTimes(*machine, kStops);
  const std::uint64_t allocations = AllocationCount() - before;
  ASSERT_EQ(error, "");
  EXPECT_EQ(allocations, 0U) << "in " << kStops * GetParam().exits_per_ring << " exits";
}

TEST_P(HotPathTest, CallsNothingButKvmRun) {
  const auto traced = [this](const std::function<void()>& mark) -> std::string {
    auto device = KvmDevice::Open();
    if (!device) return device.error().ToString();
    auto machine = UserMachine::Create(*device, image_, {});
    if (!machine) return machine.error().ToString();
    auto deadline = RunDeadline::Start(machine->vcpu(), kLimit);
    if (!deadline) return deadline.error().ToString();
    if (std::string error = RingTimes(*machine, 1); !error.empty()) return error;
    mark();
    std::string error = RingTimes(*machine, kStops);
    mark();
    return error;
  };
  const SystemCallTrace trace = TraceSystemCalls(traced);
  if (trace.may_not_trace) GTEST_SKIP() << trace.problem;
  ASSERT_EQ(trace.problem, "");
  std::uint64_t entries = 0;
  std::map<std::uint64_t, std::uint64_t> others;  // number -> how often
  for (const SystemCall& call : trace.calls) {
    if (call.number == SYS_ioctl && call.arguments[1] == KVM_RUN) {
      ++entries;
    } else {
      ++others[call.number];
    }
  }
  EXPECT_EQ(entries, kStops * GetParam().exits_per_ring);
  EXPECT_EQ(others, (std::map<std::uint64_t, std::uint64_t>{}));
}

INSTANTIATE_TEST_SUITE_P(Guests, HotPathTest, ::testing::ValuesIn(HotGuests()),
                         [](const auto& info) { return std::string(info.param.name); });

// What the two tests above rest on.
TEST(AllocationCounterTest, SeesEveryWayToAllocate) {
  const auto counts = [](const auto& allocate) {
    const std::uint64_t before = AllocationCount();
    allocate();
    return AllocationCount() - before;
  };
  void* volatile block = nullptr;  // volatile: what is not used may be left out by the compiler
  EXPECT_EQ(counts([&block] { block = std::malloc(100); }), 1U);
  void* volatile larger = nullptr;
  EXPECT_EQ(counts([&] { larger = std::realloc(block, 100'000); }), 1U);
  std::free(larger);
  EXPECT_EQ(counts([&block] { block = std::calloc(10, 10); }), 1U);
  std::free(block);
  EXPECT_EQ(counts([&block] { block = std::aligned_alloc(64, 128); }), 1U);
  std::free(block);
  std::unique_ptr<std::string> text;
  EXPECT_EQ(counts([&text] { text = std::make_unique<std::string>(100, 'x'); }), 2U);
  EXPECT_EQ(counts([] {}), 0U);
}

TEST(SystemCallTraceTest, SeesExactlyWhatIsBetweenTheMarks) {
  const SystemCallTrace trace = TraceSystemCalls([](const std::function<void()>& mark) -> std::string {
    ::syscall(SYS_getuid);
    mark();
    ::syscall(SYS_getpid);
    ::syscall(SYS_ioctl, -1L, KVM_RUN, 0);
    mark();
    ::syscall(SYS_getuid);
    return {};
  });
  if (trace.may_not_trace) GTEST_SKIP() << trace.problem;
  ASSERT_EQ(trace.problem, "");
  ASSERT_EQ(trace.calls.size(), 2U);
  EXPECT_EQ(trace.calls[0].number, static_cast<std::uint64_t>(SYS_getpid));
  EXPECT_EQ(trace.calls[1].number, static_cast<std::uint64_t>(SYS_ioctl));
  EXPECT_EQ(trace.calls[1].arguments[1], KVM_RUN);
}

TEST(SystemCallTraceTest, AFailureIsTold) {
  const SystemCallTrace trace = TraceSystemCalls([](const std::function<void()>& mark) -> std::string {
    mark();
    mark();
    return "no such guest";
  });
  if (trace.may_not_trace) GTEST_SKIP() << trace.problem;
  EXPECT_EQ(trace.problem, "the child failed: no such guest");
}

}  // namespace
}  // namespace nestbench::micro
