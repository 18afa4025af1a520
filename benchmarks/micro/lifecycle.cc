// What: making, changing and ending a virtual machine. Unit: ns for each, lower is better. `vm`: vmm-core. `floor`: the
// same system calls in the same order in raw ioctls.
//   create_vm     KVM_CREATE_VM
//   create_vcpu   KVM_CREATE_VCPU and the mapping of kvm_run, on a VM without memory
//   cold_start    from the open /dev/kvm to the first exit of the payload: VM, memory, tables, image, vCPU, first entry
//   destroy       of a machine that has run: unmapping, vCPU, VM, memory
//   slot_add      16 MiB mapped and made a slot of a machine that has run
//   slot_remove   the same slot taken away and unmapped
//   dirty_log     KVM_GET_DIRTY_LOG of a slot in which the guest has written 1,000 pages since the last one
// Timer: CLOCK_MONOTONIC_RAW directly around the step (manual time). Left out: all other steps, opening /dev/kvm,
// reading the image's file.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "code_image.h"
#include "guest.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "timing.h"

namespace nestbench::micro {
namespace {

using abi::Command;
using abi::Doorbell;
using abi::GuestPhysAddr;
using benchmark::State;

constexpr auto kNothing = [] {};
constexpr std::uint32_t kNewSlot = 3;  // a machine without an arena has 0 to 2
constexpr std::uint64_t kNewSlotBytes = 16ULL << 20;
constexpr std::uint32_t kImageSlot = 2;
constexpr std::uint64_t kDirtyPages = 1000;
constexpr int kHarvests = 16;  // a fixed number: writing 1,000 protected pages takes far longer than harvesting them

// The steps of vmm-core.
struct Library {
  using Guest = LibraryGuest;
  using Vm = vmm::Vm;

  static void CreateVm(Environment& environment, std::optional<Vm>& vm) {
    vm.emplace(Take(vmm::Vm::Create(environment.device())));
  }

  static void CreateVcpu(State& state, Environment& environment) {
    std::optional<Vm> vm;
    std::optional<vmm::Vcpu> vcpu;
    TimeEach(
        state,
        [&] {
          vcpu.reset();
          CreateVm(environment, vm);
        },
        [&] { vcpu.emplace(Take(vmm::Vcpu::Create(*vm, abi::VcpuId{0}))); }, kNothing);
  }

  static void AddSlot(Guest& guest) {
    auto region = Take(vmm::MemoryRegion::Create({GuestPhysAddr(abi::kArenaBase), kNewSlotBytes}, {}));
    const std::uint32_t slot = Take(guest.machine().vm().AddMemory(std::move(region)));
    if (slot != kNewSlot) throw Broken("the machine has other slots than expected");
  }
  static void RemoveSlot(Guest& guest) { Take(guest.machine().vm().RemoveMemory(kNewSlot)); }

  static void LogDirtyPages(Guest& guest) { Take(guest.machine().vm().SetDirtyLogging(kImageSlot, true)); }
  using DirtyLog = std::optional<vmm::DirtyBitmap>;
  static void Harvest(Guest& guest, DirtyLog& log) { log.emplace(Take(guest.machine().vm().GetDirtyLog(kImageSlot))); }
  static std::uint64_t CountDirty(const DirtyLog& log) { return log->CountDirty(); }
};

// The same steps in raw ioctls.
struct Floor {
  using Guest = FloorGuest;
  using Vm = floor::RawVm;

  static void CreateVm(Environment& environment, std::optional<Vm>& vm) { vm.emplace(environment.raw_kvm()); }

  static void CreateVcpu(State& state, Environment& environment) {
    std::optional<Vm> vm;
    TimeEach(
        state, [&] { CreateVm(environment, vm); }, [&] { vm->CreateVcpu(); }, kNothing);
  }

  static void AddSlot(Guest& guest) { guest.raw().vm().AddMemory(kNewSlot, abi::kArenaBase, kNewSlotBytes); }
  static void RemoveSlot(Guest& guest) { guest.raw().vm().RemoveMemory(kNewSlot); }

  static void LogDirtyPages(Guest& guest) { guest.raw().vm().SetSlotFlags(kImageSlot, KVM_MEM_LOG_DIRTY_PAGES); }
  struct DirtyLog {
    std::vector<std::uint64_t> words = std::vector<std::uint64_t>(kDirtyPages / 64 + 2);
  };
  static void Harvest(Guest& guest, DirtyLog& log) {
    kvm_dirty_log request = {};
    request.slot = kImageSlot;
    request.dirty_bitmap = log.words.data();
    floor::RawIoctl(guest.raw().vm().fd(), KVM_GET_DIRTY_LOG, &request, "KVM_GET_DIRTY_LOG");
  }
  static std::uint64_t CountDirty(const DirtyLog& log) {
    std::uint64_t count = 0;
    for (const std::uint64_t word : log.words) count += static_cast<std::uint64_t>(__builtin_popcountll(word));
    return count;
  }
};

// From nothing to the first ring.
template <Doorbell kDoorbell, typename Guest>
void ColdStart(Environment& environment, std::optional<Guest>& guest) {
  guest.emplace(environment, environment.exits_image());
  guest->WriteRequest(MakeRequest(Command::kNone, kDoorbell, 0, 1));
  const auto deadline = guest->StartDeadline();
  RingOrThrow<kDoorbell>(*guest);
}

template <typename Guest>
void ColdStartByAnyDoorbell(Environment& environment, std::optional<Guest>& guest) {
  if (environment.doorbell() == Doorbell::kPort) {
    ColdStart<Doorbell::kPort>(environment, guest);
  } else {
    ColdStart<Doorbell::kMmio>(environment, guest);
  }
}

// Writes a byte in each of 1,000 pages, rings by the port or (`kPage`) the page, and does so for ever.
std::vector<std::byte> DirtyingImage(Doorbell doorbell) {
  static_assert(kCodeImageData == 0x1000'1000 && kDirtyPages == 0x3E8 && abi::kPageBytes == 0x1000);
  static_assert(abi::kDoorbellPort == 0x0B20 && abi::kDoorbellPage == 0xD000'0000);
  constexpr std::uint64_t kDataBytes = kDirtyPages * abi::kPageBytes;
  if (doorbell == Doorbell::kPort) {
    return MakeCodeImage({0xBB, 0x00, 0x10, 0x00, 0x10,              // 0: mov ebx, kCodeImageData
                          0xB9, 0xE8, 0x03, 0x00, 0x00,              // mov ecx, kDirtyPages
                          0xFE, 0x03,                                // 1: inc byte [rbx]
                          0x48, 0x81, 0xC3, 0x00, 0x10, 0x00, 0x00,  // add rbx, 4096
                          0xFF, 0xC9, 0x75, 0xF3,                    // dec ecx; jnz 1b
                          0xBA, 0x20, 0x0B, 0x00, 0x00, 0xEF,        // mov edx, kDoorbellPort; out dx, eax
                          0xEB, 0xE1},                               // jmp 0b
                         kDataBytes);
  }
  return MakeCodeImage({0xBB, 0x00, 0x10, 0x00, 0x10,              // 0: mov ebx, kCodeImageData
                        0xB9, 0xE8, 0x03, 0x00, 0x00,              // mov ecx, kDirtyPages
                        0xFE, 0x03,                                // 1: inc byte [rbx]
                        0x48, 0x81, 0xC3, 0x00, 0x10, 0x00, 0x00,  // add rbx, 4096
                        0xFF, 0xC9, 0x75, 0xF3,                    // dec ecx; jnz 1b
                        0xBA, 0x00, 0x00, 0x00, 0xD0, 0x89, 0x02,  // mov edx, kDoorbellPage; mov [rdx], eax
                        0xEB, 0xE0},                               // jmp 0b
                       kDataBytes);
}

template <typename Steps, Doorbell kDoorbell>
void HarvestDirtyLog(State& state, Environment& environment) {
  const std::vector<std::byte> image = DirtyingImage(kDoorbell);
  typename Steps::Guest guest(environment, image);
  const auto deadline = guest.StartDeadline();  // for all of them: their number is fixed
  typename Steps::DirtyLog log;
  RingOrThrow<kDoorbell>(guest);  // every page has been touched before
  Steps::LogDirtyPages(guest);
  TimeEach(
      state, [&guest] { RingOrThrow<kDoorbell>(guest); }, [&] { Steps::Harvest(guest, log); },
      [&log] {
        const std::uint64_t dirty = Steps::CountDirty(log);
        if (dirty != kDirtyPages) throw Broken{fmt::format("the log holds {} pages, not {}", dirty, kDirtyPages)};
      });
}

template <typename Steps>
void RegisterFor(Environment& environment) {
  using Guest = typename Steps::Guest;
  const auto add = [&environment](const char* workload, auto run) {
    return Register(std::string("lifecycle/") + workload + "/" + Guest::kSubstrate, Timer::kManual,
                    [&environment, run](State& state) { run(state, environment); });
  };
  add("create_vm", [](State& state, Environment& shared) {
    std::optional<typename Steps::Vm> vm;
    TimeEach(
        state, [&vm] { vm.reset(); }, [&] { Steps::CreateVm(shared, vm); }, kNothing);
  });
  add("create_vcpu", [](State& state, Environment& shared) { Steps::CreateVcpu(state, shared); });
  add("cold_start", [](State& state, Environment& shared) {
    shared.doorbell();  // found before the clock runs
    std::optional<Guest> guest;
    TimeEach(
        state, [&guest] { guest.reset(); }, [&] { ColdStartByAnyDoorbell(shared, guest); }, kNothing);
  });
  add("destroy", [](State& state, Environment& shared) {
    std::optional<Guest> guest;
    TimeEach(
        state, [&] { ColdStartByAnyDoorbell(shared, guest); }, [&guest] { guest.reset(); }, kNothing);
  });
  add("slot_add", [](State& state, Environment& shared) {
    std::optional<Guest> guest;
    ColdStartByAnyDoorbell(shared, guest);
    TimeEach(
        state, kNothing, [&guest] { Steps::AddSlot(*guest); }, [&guest] { Steps::RemoveSlot(*guest); });
  });
  add("slot_remove", [](State& state, Environment& shared) {
    std::optional<Guest> guest;
    ColdStartByAnyDoorbell(shared, guest);
    TimeEach(
        state, [&guest] { Steps::AddSlot(*guest); }, [&guest] { Steps::RemoveSlot(*guest); }, kNothing);
  });
  add("dirty_log/pages=1000", [](State& state, Environment& shared) {
    if (shared.doorbell() == Doorbell::kPort) {
      HarvestDirtyLog<Steps, Doorbell::kPort>(state, shared);
    } else {
      HarvestDirtyLog<Steps, Doorbell::kMmio>(state, shared);
    }
  })->Iterations(kHarvests);
}

}  // namespace

void RegisterLifecycle(Environment& environment) {
  RegisterFor<Library>(environment);
  RegisterFor<Floor>(environment);
}

}  // namespace nestbench::micro
