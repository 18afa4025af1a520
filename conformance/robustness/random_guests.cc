// Random code, tables, state and ioctls: the VMM's process and the host survive, exits and errors are documented ones,
// host memory around the guest's is untouched, and a fresh guest still runs. Each is replayed by its seed, which
// NESTBENCH_SEED overrides, and is bounded by rounds and by time. Source: kernel document "The Definitive KVM API
// Documentation", KVM_RUN, The kvm_run structure and the sections of the ioctls.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../harness/random_test.h"

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;

class RandomGuests : public RandomTest {
 protected:
  // Until something ends the guest, or 40 exits: what a device without mercy would answer is random too.
  void RunIt(Box& box, std::chrono::milliseconds limit = 10ms) {
    auto deadline = vmm::RunDeadline::Start(box.vcpu(), limit);
    ASSERT_TRUE(deadline) << deadline.error().ToString();
    for (int exits = 0; exits < 40; ++exits) {
      const int error = ErrorOf(box.vcpu().fd(), KVM_RUN);
      if (error != 0) {
        EXPECT_TRUE(FailsWith(error, {EINTR, EAGAIN, EFAULT, EINVAL, EIO, ENOEXEC}));
        ++seen_[std::string("error_") + ::strerrorname_np(error)];
        return;
      }
      const std::uint32_t reason = box.vcpu().run()->exit_reason;
      ++seen_[vmm::ExitReasonName(reason)];
      EXPECT_LE(reason, 45U) << "an exit that no document has";
      if (reason == KVM_EXIT_IO) {
        const vmm::IoExit io = box.vcpu().LastIoExit();
        EXPECT_LE(io.data.size(), 4096U);
        if (!io.is_write) Fill(io.data.data(), io.data.size());
      } else if (reason == KVM_EXIT_MMIO) {
        const vmm::MmioExit mmio = box.vcpu().LastMmioExit();
        if (!mmio.is_write) Fill(mmio.data.data(), mmio.data.size());
      } else if (reason != KVM_EXIT_HLT) {
        return;
      }
    }
  }

  void RandomCode(BoxMode mode) {
    while (Again(200)) {
      auto box = MakeBox(mode);
      ASSERT_TRUE(box);
      Fill(box->memory().data() + Box::kCode, 0x2000);
      kvm_regs regs = {};
      Fill(&regs, sizeof(regs));
      regs.rip = Box::kCode;
      regs.rsp = Box::kStackTop;
      regs.rflags = kFirstFlags;
      // Half of the registers point at something that can be reached.
      for (auto* one : {&regs.rbx, &regs.rsi, &regs.rdi, &regs.rbp}) *one = Below(2 * Box::kBytes);
      ASSERT_TRUE(box->vcpu().SetRegs(regs));
      RunIt(*box);
      ASSERT_TRUE(box->CanariesIntact()) << "round " << rounds_;
    }
  }

  // Sets random state of one kind, which KVM may refuse with one of the documented errors, and runs.
  template <typename Set>
  void RandomState(Set set) {
    while (Again(200)) {
      auto box = MakeBox(Below(2) == 0 ? BoxMode::kReal16 : BoxMode::kSupervisor64);
      ASSERT_TRUE(box);
      Fill(box->memory().data() + Box::kCode, 0x100);
      const int error = set(*box);
      ++seen_[error == 0 ? std::string("set") : std::string("refused_") + ::strerrorname_np(error)];
      EXPECT_TRUE(FailsWith(error, {0, EINVAL, EPERM, EFAULT, E2BIG, ENXIO, ENOTTY, ENOMEM}));
      RunIt(*box);
      ASSERT_TRUE(box->CanariesIntact()) << "round " << rounds_;
    }
  }

  // Flips a few bits of what is valid: wholly random state is refused at the first check.
  template <typename T>
  void Flip(T& value) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(&value);
    for (std::uint64_t i = 0, flips = 1 + Below(6); i < flips; ++i) {
      bytes[Below(sizeof(value))] ^= static_cast<std::uint8_t>(1U << Below(8));
    }
  }
  template <typename T>
  void FlippedState(unsigned long get, unsigned long put) {
    RandomState([this, get, put](Box& box) {
      T state = {};
      if (const int error = ErrorOf(box.vcpu().fd(), get, &state); error != 0) return error;
      Flip(state);
      return ErrorOf(box.vcpu().fd(), put, &state);
    });
  }
};

NESTBENCH_CONDITION(robustness, RandomGuests, CodeInRealMode, "KVM API, KVM_RUN; arch/x86/kvm/emulate.c") {
  RandomCode(BoxMode::kReal16);
}
NESTBENCH_CONDITION(robustness, RandomGuests, CodeInProtectedMode, "KVM API, KVM_RUN; arch/x86/kvm/emulate.c") {
  RandomCode(BoxMode::kProtected32);
}
NESTBENCH_CONDITION(robustness, RandomGuests, CodeInLongModeAtCpl0, "KVM API, KVM_RUN; arch/x86/kvm/emulate.c") {
  RandomCode(BoxMode::kSupervisor64);
}
NESTBENCH_CONDITION(robustness, RandomGuests, CodeInLongModeAtCpl3, "KVM API, KVM_RUN") {
  RandomCode(BoxMode::kUser64);
}

NESTBENCH_CONDITION(robustness, RandomGuests, PageTables, "KVM API, KVM_RUN; arch/x86/kvm/mmu/paging_tmpl.h") {
  while (Again(200)) {
    auto box = MakeBox(Below(2) == 0 ? BoxMode::kSupervisor64 : BoxMode::kUser64);
    ASSERT_TRUE(box);
    Fill(box->memory().data() + Box::kCode, 0x1000);
    for (std::uint64_t i = 0, entries = 1 + Below(64); i < entries; ++i) {
      std::uint64_t entry = Next();
      if (Below(2) == 0) entry &= 0x3'FFE7;  // inside, without the reserved bits
      box->Put(Box::kTables + Below(0x4000 / 8) * 8, entry);
    }
    RunIt(*box);
    ASSERT_TRUE(box->CanariesIntact()) << "round " << rounds_;
  }
}

NESTBENCH_CONDITION(robustness, RandomGuests, GeneralRegisters, "KVM API, KVM_SET_REGS") {
  RandomState([this](Box& box) {
    kvm_regs regs = {};
    Fill(&regs, sizeof(regs));
    return ErrorOf(box.vcpu().fd(), KVM_SET_REGS, &regs);
  });
}
NESTBENCH_CONDITION(robustness, RandomGuests, SegmentsAndControlRegisters, "KVM API, KVM_SET_SREGS: EINVAL") {
  FlippedState<kvm_sregs>(KVM_GET_SREGS, KVM_SET_SREGS);
}
NESTBENCH_CONDITION(robustness, RandomGuests, FpuState, "KVM API, KVM_SET_FPU") {
  FlippedState<kvm_fpu>(KVM_GET_FPU, KVM_SET_FPU);
}
NESTBENCH_CONDITION(robustness, RandomGuests, XsaveState, "KVM API, KVM_SET_XSAVE: EINVAL") {
  RandomState([this](Box& box) {
    auto area = box.vcpu().GetXsave();
    if (!area) return area.error().error_number;
    for (int i = 0; i < 6; ++i) (*area)[Below(area->size())] ^= static_cast<std::byte>(1U << Below(8));
    return ErrorOf(box.vcpu().fd(), KVM_SET_XSAVE, area->data());
  });
}
NESTBENCH_CONDITION(robustness, RandomGuests, Events, "KVM API, KVM_SET_VCPU_EVENTS: EINVAL") {
  FlippedState<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS);
}
NESTBENCH_CONDITION(robustness, RandomGuests, DebugRegisters, "KVM API, KVM_SET_DEBUGREGS: EINVAL") {
  FlippedState<kvm_debugregs>(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS);
}
NESTBENCH_CONDITION(robustness, RandomGuests, Msrs, "KVM API, KVM_SET_MSRS: stops at the first that cannot be set") {
  const auto known = device().MsrIndices();
  ASSERT_TRUE(known && !known->empty());
  RandomState([this, &known](Box& box) {
    const std::uint32_t index = Below(4) == 0 ? static_cast<std::uint32_t>(Next()) : (*known)[Below(known->size())];
    const auto written = box.vcpu().WriteMsr(index, Below(2) == 0 ? Next() : Below(0x1000));
    return written ? 0 : EINVAL;  // how many were set is no error of the ioctl
  });
}
NESTBENCH_CONDITION(robustness, RandomGuests, Cpuid, "KVM API, KVM_SET_CPUID2: E2BIG, EINVAL") {
  RandomState([this](Box& box) {
    kvm_cpuid_entry2 entries[16];
    Fill(entries, sizeof(entries));
    for (auto& entry : entries) entry.function = static_cast<std::uint32_t>(Below(0x20) | Below(2) << 31);
    // struct kvm_cpuid2 ends in an array without a size, which clang initializes nowhere: nent and padding.
    const std::uint32_t head[2] = {static_cast<std::uint32_t>(Below(17)), 0};
    std::vector<std::byte> leaves(sizeof(head) + sizeof(entries));
    std::memcpy(leaves.data(), head, sizeof(head));
    std::memcpy(leaves.data() + sizeof(head), entries, sizeof(entries));
    return ErrorOf(box.vcpu().fd(), KVM_SET_CPUID2, leaves.data());
  });
}
NESTBENCH_CONDITION(robustness, RandomGuests, LocalApic, "KVM API, KVM_SET_LAPIC: needs an in-kernel chip") {
  RandomState([this](Box& box) {
    kvm_lapic_state state = {};
    Fill(&state, sizeof(state));
    return ErrorOf(box.vcpu().fd(), KVM_SET_LAPIC, &state);
  });
}

NESTBENCH_CONDITION(robustness, RandomGuests, SlotChangesAgreeWithAModel,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: EEXIST for overlap; deletion by size 0") {
  auto box = MakeBox(BoxMode::kReal16);
  ASSERT_TRUE(box);
  std::vector<std::byte> backing(20 * 4096);
  auto* host = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(backing.data()) + 4095) & ~4095ULL);
  struct Slot {
    std::uint64_t start = 0;
    std::uint64_t pages = 0;
  };
  Slot model[8];  // of the slots 1 to 8
  while (Again(2000)) {
    const std::uint64_t which = Below(8);
    if (model[which].pages != 0) {
      ASSERT_EQ(box->SetSlot(static_cast<std::uint32_t>(which + 1), 0, {host, 0}), 0) << "round " << rounds_;
      model[which].pages = 0;
      continue;
    }
    const Slot wanted{.start = 256 + Below(32), .pages = 1 + Below(8)};
    bool is_free = true;
    for (const Slot& other : model) {
      if (other.pages != 0 && wanted.start < other.start + other.pages && other.start < wanted.start + wanted.pages) {
        is_free = false;
      }
    }
    const int error =
        box->SetSlot(static_cast<std::uint32_t>(which + 1), wanted.start * 4096, {host, wanted.pages * 4096});
    ASSERT_TRUE(FailsWith(error, {is_free ? 0 : EEXIST})) << "round " << rounds_;
    ++seen_[is_free ? "added" : "refused"];
    if (is_free) model[which] = wanted;
  }
  EXPECT_TRUE(box->CanariesIntact());
}

NESTBENCH_CONDITION(robustness, RandomGuests, ARunningVcpuRacesWithSlotChanges,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: may be called while vCPUs run") {
  auto box = MakeBox(BoxMode::kSupervisor64);
  ASSERT_TRUE(box);
  // mov rax, [0x100000]; mov [0x100000], rax; jmp back
  constexpr std::uint8_t kCode[] = {0x48, 0x8B, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0x48,
                                    0x89, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0xEB, 0xEE};
  box->Load(std::as_bytes(std::span(kCode)));
  std::vector<std::byte> backing(3 * 4096);
  auto* host = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(backing.data()) + 4095) & ~4095ULL);
  std::atomic<bool> is_done = false;
  std::thread changer([&] {
    for (int i = 0; i < 300 && !is_done; ++i) {
      EXPECT_EQ(box->SetSlot(1, 0x10'0000, {host, 4096}), 0);
      EXPECT_EQ(box->SetSlot(1, 0x10'0000, {host, 0}), 0);
    }
  });
  while (Again(40)) RunIt(*box, 5ms);
  is_done = true;
  changer.join();
  EXPECT_TRUE(box->CanariesIntact());
}

NESTBENCH_CONDITION(robustness, RandomGuests, ARunningVcpuRacesWithCloseOfItsVm,
                    "KVM API, KVM_CREATE_VM: a VM lives as long as one of its descriptors") {
  while (Again(30)) {
    auto box = MakeBox(BoxMode::kReal16);
    ASSERT_TRUE(box);
    constexpr std::uint8_t kCode[] = {0xEB, 0xFE};
    box->Load(std::as_bytes(std::span(kCode)));
    const int place = ::open("/dev/null", 0);
    std::thread closer([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(500 + rounds_ * 100));
      ::dup2(place, box->vm().fd());  // closes it, and leaves a number that nobody else takes meanwhile
    });
    RunIt(*box, 8ms);
    closer.join();
    ::close(place);
  }
}

NESTBENCH_CONDITION(robustness, RandomGuests, ARunningVcpuRacesWithSignals,
                    "KVM API, KVM_RUN: EINTR; The kvm_run structure: immediate_exit") {
  auto box = MakeBox(BoxMode::kReal16);
  ASSERT_TRUE(box);
  constexpr std::uint8_t kCode[] = {0xE6, 0x10, 0xEB, 0xFC};  // out 0x10, al; jmp back
  box->Load(std::as_bytes(std::span(kCode)));
  const auto kicker = box->vcpu().Kicker();
  std::atomic<bool> is_done = false;
  std::thread other([&] {
    while (!is_done) {
      kicker.Kick();
      std::this_thread::sleep_for(50us);
    }
  });
  while (Again(2000)) {
    box->vcpu().run()->immediate_exit = 0;
    RunIt(*box, 20ms);
  }
  is_done = true;
  other.join();
}

NESTBENCH_CONDITION(robustness, RandomGuests, SixteenVcpusRunRandomCodeInOneVm,
                    "KVM API, KVM_CREATE_VCPU: KVM_CAP_NR_VCPUS") {
  auto box = MakeBox(BoxMode::kReal16);
  ASSERT_TRUE(box);
  Fill(box->memory().data() + Box::kCode, 0x2000);
  std::vector<std::thread> threads;
  std::atomic<int> ended = 0;
  for (std::uint32_t id = 1; id < 16; ++id) {
    threads.emplace_back([&box, &ended, id] {
      auto vcpu = vmm::Vcpu::Create(box->vm(), abi::VcpuId(id));
      if (!vcpu) return;
      auto sregs = vcpu->GetSregs();
      if (!sregs) return;
      sregs->cs.base = 0;
      sregs->cs.selector = 0;
      if (!vcpu->SetSregs(*sregs)) return;
      kvm_regs regs = {};
      regs.rsp = 0x7000;
      regs.rip = Box::kCode + std::uint64_t{id} * 16;
      regs.rflags = kFirstFlags;
      if (!vcpu->SetRegs(regs)) return;
      auto deadline = vmm::RunDeadline::Start(*vcpu, 200ms);
      if (!deadline) return;
      for (int i = 0; i < 50; ++i) ErrorOf(vcpu->fd(), KVM_RUN);
      ++ended;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ended, 15);
  EXPECT_TRUE(box->CanariesIntact());
}

}  // namespace
}  // namespace nestbench::conformance
