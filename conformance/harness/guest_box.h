// A guest of 256 KiB between two canaries, in any mode: what the conditions of isolation and robustness run their
// hostile code in. No boot code: descriptor tables, page tables and vCPU state are written from outside.
//
// In the 64-bit modes the guest's first 2 MiB are mapped one to one in small pages and the rest of its first GiB in
// large ones, whether there is memory or not, so that an address outside every slot is reachable for page tables. Each
// exception ends in a stub at CPL0 that writes its vector to kPanicPort. At CPL3 the I/O permission bitmap opens
// kOpenPorts and nothing else.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "guest.h"
#include "guest_code.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/task_state.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/segments.h"

namespace nestbench::conformance {

enum class BoxMode : std::uint8_t { kReal16, kProtected32, kSupervisor64, kUser64 };

struct BoxOptions {
  std::uint8_t canary = 0xC5;  // every byte of host memory on both sides of the guest's
  bool log_dirty_pages = false;
};

// What the processor pushed before a stub.
struct BoxException {
  unsigned vector = 0;
  std::uint64_t error_code = 0;  // 0 in real mode
  std::uint64_t rip = 0;
  std::uint64_t cs = 0;
};

class Box {
 public:
  static constexpr std::uint64_t kBytes = 0x4'0000;
  static constexpr std::uint64_t kCanaryBytes = 0x1'0000;
  static constexpr std::uint64_t kGdt = 0x1000;
  static constexpr std::uint64_t kIdt = 0x2000;
  static constexpr std::uint64_t kTss = 0x3000;  // with the bitmap three pages
  static constexpr std::uint64_t kStubs = 0x6000;
  static constexpr std::uint64_t kKernelStackTop = 0x8000;
  static constexpr std::uint64_t kCode = 0x8000;  // user pages from here to kStackTop
  static constexpr std::uint64_t kData = 0xC000;
  static constexpr std::uint64_t kStackTop = 0xFFF0;
  static constexpr std::uint64_t kTables = 0x1'0000;  // root, directory pointers, directory, table
  static constexpr std::uint64_t kFree = 0x2'0000;    // user pages again
  static constexpr std::uint16_t kOpenPorts = 0x10;   // to 0x1F
  static constexpr std::uint16_t kPanicPort = 0xF0;
  static constexpr std::uint32_t kSlot = 0;

  static vmm::Result<Box> Create(const vmm::KvmDevice& device, BoxMode mode, const BoxOptions& options = {}) {
    auto vm = vmm::Vm::Create(device);
    if (!vm) return vmm::Fail(std::move(vm.error()));
    void* place =
        ::mmap(nullptr, kBytes + 2 * kCanaryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) return vmm::Fail(vmm::Error::System("mmap", errno));
    Box box(std::move(*vm), {static_cast<std::byte*>(place), kBytes + 2 * kCanaryBytes}, mode, options.canary);
    std::memset(place, options.canary, kCanaryBytes);
    std::memset(box.all_.data() + kCanaryBytes + kBytes, options.canary, kCanaryBytes);
    const int error = box.SetSlot(kSlot, 0, box.memory(), options.log_dirty_pages ? KVM_MEM_LOG_DIRTY_PAGES : 0U);
    if (error != 0) return vmm::Fail(vmm::Error::System("KVM_SET_USER_MEMORY_REGION", error));
    auto vcpu = vmm::Vcpu::Create(box.vm_, abi::VcpuId(0));
    if (!vcpu) return vmm::Fail(std::move(vcpu.error()));
    box.vcpu_.emplace(std::move(*vcpu));
    if (auto done = box.SetUp(device); !done) return vmm::Fail(std::move(done.error()));
    return box;
  }

  Box(Box&& other) noexcept
      : vm_(std::move(other.vm_)),
        vcpu_(std::move(other.vcpu_)),
        all_(std::exchange(other.all_, {})),
        mode_(other.mode_),
        canary_(other.canary_) {}
  Box& operator=(Box&&) = delete;
  Box(const Box&) = delete;
  Box& operator=(const Box&) = delete;
  ~Box() {
    vcpu_.reset();
    if (!all_.empty()) ::munmap(all_.data(), all_.size());
  }

  [[nodiscard]] std::span<std::byte> memory() const { return all_.subspan(kCanaryBytes, kBytes); }
  [[nodiscard]] std::span<std::byte> canary_below() const { return all_.first(kCanaryBytes); }
  [[nodiscard]] std::span<std::byte> canary_above() const { return all_.last(kCanaryBytes); }
  [[nodiscard]] vmm::Vm& vm() { return vm_; }
  [[nodiscard]] vmm::Vcpu& vcpu() { return *vcpu_; }
  [[nodiscard]] BoxMode mode() const { return mode_; }

  [[nodiscard]] bool CanariesIntact() const {
    const auto is_canary = [this](std::byte byte) { return byte == std::byte{canary_}; };
    return std::ranges::all_of(canary_below(), is_canary) && std::ranges::all_of(canary_above(), is_canary);
  }

  int SetSlot(std::uint32_t slot, std::uint64_t guest_physical, std::span<const std::byte> host,
              std::uint32_t flags = 0) {
    const kvm_userspace_memory_region region = {.slot = slot,
                                                .flags = flags,
                                                .guest_phys_addr = guest_physical,
                                                .memory_size = host.size(),
                                                .userspace_addr = reinterpret_cast<std::uint64_t>(host.data())};
    return ErrorOf(vm_.fd(), KVM_SET_USER_MEMORY_REGION, &region);
  }

  void Load(std::span<const std::byte> code, std::uint64_t at = kCode) {
    std::ranges::copy(code, memory().begin() + static_cast<std::ptrdiff_t>(at));
  }
  template <typename T>
  void Put(std::uint64_t at, const T& value) {
    std::memcpy(memory().data() + at, &value, sizeof(value));
  }
  template <typename T>
  [[nodiscard]] T Get(std::uint64_t at) const {
    T value;
    std::memcpy(&value, memory().data() + at, sizeof(value));
    return value;
  }

  // Another vCPU in the state that the first one is in. Called from the thread that will run it, while the first is not
  // running; without an in-kernel chip every vCPU is runnable.
  vmm::Result<vmm::Vcpu> MakeSibling(std::uint32_t id) {
    auto sibling = vmm::Vcpu::Create(vm_, abi::VcpuId(id));
    if (!sibling) return sibling;
    auto policy = vcpu_->GetCpuid();
    auto sregs = vcpu_->GetSregs();
    const auto regs = vcpu_->GetRegs();
    const auto fresh = sibling->GetSregs();
    if (!policy || !sregs || !regs || !fresh) return vmm::Fail(vmm::Error::System("the state of the first vCPU", EIO));
    sregs->apic_base = fresh->apic_base;
    if (is_long()) sregs->tr.type = abi::x86::TaskStateType();  // KVM says of an available one that it is busy
    if (auto set = sibling->SetCpuid(*policy); !set) return vmm::Fail(std::move(set.error()));
    if (auto set = sibling->SetSregs(*sregs); !set) return vmm::Fail(std::move(set.error()));
    if (const auto xcrs = vcpu_->GetXcrs(); xcrs && (sregs->cr4 & abi::x86::kCr4Osxsave) != 0) {
      if (auto set = sibling->SetXcr0(xcrs->xcrs[0].value); !set) return vmm::Fail(std::move(set.error()));
    }
    if (auto set = sibling->SetRegs(*regs); !set) return vmm::Fail(std::move(set.error()));
    return sibling;
  }

  // Points a small page of the 64-bit modes' first 2 MiB elsewhere.
  void MapPage(std::uint64_t virtual_address, std::uint64_t guest_physical, std::uint64_t flags) {
    Put(kTables + 0x3000 + virtual_address / 4096 % 512 * 8, guest_physical | flags);
  }

  // Until the next exit, or interrupted at the limit. Errors are those of KVM_RUN.
  vmm::Result<vmm::Exit> Run(std::chrono::milliseconds limit = std::chrono::seconds(2)) {
    auto deadline = vmm::RunDeadline::Start(*vcpu_, limit);
    if (!deadline) return vmm::Fail(std::move(deadline.error()));
    return vcpu_->Run();
  }

  // Until the guest writes to a port: that port and value; reads of MMIO and ports in between get all ones. What else
  // ended it is in the text.
  struct Said {
    std::optional<std::uint16_t> port;
    std::uint32_t value = 0;
    bool lacks_instruction = false;  // this KVM emulates the guest and cannot emulate what is in the text
    std::string text;
  };
  Said RunToPort(std::chrono::milliseconds limit = std::chrono::seconds(2), unsigned exits = 1000) {
    for (unsigned i = 0; i < exits; ++i) {
      auto exit = Run(limit);
      if (!exit) return {.port = {}, .text = exit.error().ToString()};
      if (const auto* io = std::get_if<vmm::IoExit>(&*exit)) {
        if (io->is_write) {
          Said said{.port = io->port, .text = {}};
          std::memcpy(&said.value, io->data.data(), std::min<std::size_t>(io->data.size(), sizeof(said.value)));
          if (io->port == kPanicPort) said.text = "exception " + std::to_string(said.value);
          return said;
        }
        std::ranges::fill(io->data, std::byte{0xFF});
      } else if (const auto* mmio = std::get_if<vmm::MmioExit>(&*exit)) {
        if (!mmio->is_write) std::ranges::fill(mmio->data, std::byte{0xFF});
      } else {
        return {.port = {}, .lacks_instruction = LacksInstruction(*exit), .text = vmm::ToString(*exit).substr(0, 300)};
      }
    }
    return {.port = {}, .text = "exits without end"};
  }

  // After a write to kPanicPort.
  [[nodiscard]] BoxException Exception(unsigned vector) {
    const auto regs = vcpu_->GetRegs();
    const auto sregs = vcpu_->GetSregs();
    BoxException seen{.vector = vector};
    if (!regs || !sregs) return seen;
    const std::size_t width = is_long() ? 8 : mode_ == BoxMode::kReal16 ? 2 : 4;
    std::uint64_t at = is_long() ? regs->rsp : sregs->ss.base + regs->rsp % (1ULL << (8 * width));
    const auto pop = [&](std::uint64_t& value) {
      if (at + width <= kBytes) std::memcpy(&value, memory().data() + at, width);
      at += width;
    };
    if (mode_ != BoxMode::kReal16 && abi::x86::HasErrorCode(vector)) pop(seen.error_code);
    pop(seen.rip);
    pop(seen.cs);
    seen.cs &= 0xFFFF;
    return seen;
  }

  // The registers that code starts with, for another round of the same guest.
  vmm::Result<void> Restart(std::uint64_t rip = kCode) {
    kvm_regs regs = {};
    regs.rip = rip;
    regs.rsp = kStackTop;
    regs.rflags = kFirstFlags;
    return vcpu_->SetRegs(regs);
  }

 private:
  Box(vmm::Vm vm, std::span<std::byte> all, BoxMode mode, std::uint8_t canary)
      : vm_(std::move(vm)), all_(all), mode_(mode), canary_(canary) {}

  [[nodiscard]] bool is_long() const { return mode_ == BoxMode::kSupervisor64 || mode_ == BoxMode::kUser64; }

  void WriteTables() {
    using namespace abi::x86;
    constexpr unsigned kVectors = 32;
    for (unsigned vector = 0; vector < kVectors; ++vector) {
      // mov al, vector; out kPanicPort, al; hlt; jmp to the hlt. The same bytes in every mode.
      const std::uint8_t stub[8] = {0xB0, static_cast<std::uint8_t>(vector), 0xE6, kPanicPort, 0xF4, 0xEB, 0xFD, 0};
      Put(kStubs + vector * sizeof(stub), stub);
    }
    if (mode_ == BoxMode::kReal16) {
      for (unsigned vector = 0; vector < 256; ++vector) {
        Put(std::uint64_t{vector} * 4, static_cast<std::uint32_t>(kStubs + vector % kVectors * 8));
      }
      return;
    }
    const std::uint64_t tss_limit = kTssBytes + kIoPermissionBitmapBytes;
    const std::uint64_t gdt[] = {0,
                                 is_long() ? kDescriptorCode64 : kDescriptorCode32,
                                 kDescriptorData,
                                 kDescriptorUserData,
                                 kDescriptorUserCode64,
                                 TaskStateDescriptor(kSegmentTypeTssBusy, kTss, tss_limit),
                                 0};
    Put(kGdt, gdt);
    for (unsigned vector = 0; vector < kVectors; ++vector) {
      const std::uint64_t gate = InterruptGate(0x08, kStubs + vector * 8);
      Put(kIdt + std::uint64_t{vector} * (is_long() ? 16 : 8), gate);
    }
    if (!is_long()) return;
    Put(kTss + kTssRsp0Offset, kKernelStackTop);
    Put(kTss + kTssIoMapBaseOffset, static_cast<std::uint16_t>(kTssBytes));
    // A set bit closes a port. AMD APM, section "I/O-Permission Bitmap".
    std::memset(memory().data() + kTss + kTssBytes, 0xFF, kIoPermissionBitmapBytes + 1);
    Put(kTss + kTssBytes + kOpenPorts / 8, std::uint16_t{0});
    const std::uint64_t all = kPtePresent | kPteWritable | kPteUser;
    Put(kTables, (kTables + 0x1000) | all);
    Put(kTables + 0x1000, (kTables + 0x2000) | all);
    Put(kTables + 0x2000, (kTables + 0x3000) | all);
    for (std::uint64_t page = 0; page < 512; ++page) {
      const std::uint64_t address = page * 4096;
      const bool is_user = mode_ == BoxMode::kUser64 && ((address >= kCode && address < kTables) || address >= kFree);
      Put(kTables + 0x3000 + page * 8, address | kPtePresent | kPteWritable | (is_user ? kPteUser : 0));
      if (page == 0) continue;
      const std::uint64_t user = mode_ == BoxMode::kUser64 ? kPteUser : 0;
      Put(kTables + 0x2000 + page * 8, page * abi::kLargePageBytes | kPtePresent | kPteWritable | kPteLarge | user);
    }
  }

  vmm::Result<void> SetUp(const vmm::KvmDevice& device) {
    using namespace abi::x86;
    WriteTables();
    std::uint64_t xcr0 = 0;
    if (auto policy = device.SupportedCpuid()) {
      policy->SetTopology(vcpu_->id(), 1);
      if (auto set = vcpu_->SetCpuid(*policy); !set) return set;
      xcr0 = policy->SupportedXcr0() & (kXcr0X87 | kXcr0Sse | kXcr0Avx | kXcr0Avx512);
    }
    auto sregs = vcpu_->GetSregs();
    if (!sregs) return vmm::Fail(std::move(sregs.error()));
    if (mode_ == BoxMode::kReal16) {
      for (kvm_segment* segment : {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs, &sregs->gs, &sregs->ss}) {
        segment->base = 0;
        segment->selector = 0;
      }
    } else {
      const bool is_user = mode_ == BoxMode::kUser64;
      sregs->cs = vmm::FlatSegment(is_user ? 0x23 : 0x08, kSegmentTypeCodeReadAccessed, is_long());
      sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss =
          vmm::FlatSegment(is_user ? 0x1B : 0x10, kSegmentTypeDataWriteAccessed, false);
      sregs->tr = vmm::TaskStateSegment(0x28, kTss, kTssBytes + kIoPermissionBitmapBytes,
                                        is_long() ? TaskStateType() : kSegmentTypeTssBusy);
      sregs->gdt.base = kGdt;
      sregs->gdt.limit = 7 * 8 - 1;
      sregs->idt.base = kIdt;
      sregs->idt.limit = 32 * (is_long() ? 16 : 8) - 1;
      sregs->cr0 = kCr0ProtectedMode | kCr0MonitorCoprocessor | kCr0ExtensionType | kCr0NumericError;
      if (is_long()) {
        sregs->cr0 |= kCr0WriteProtect | kCr0Paging;
        sregs->cr3 = kTables;
        sregs->cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt | (xcr0 > kXcr0X87 ? kCr4Osxsave : 0);
        sregs->efer = kEferLongModeEnable | kEferLongModeActive | kEferNoExecute;
      }
    }
    if (auto set = vcpu_->SetSregs(*sregs); !set) return set;
    if (is_long() && xcr0 > kXcr0X87) {
      if (auto set = vcpu_->SetXcr0(xcr0); !set) return set;
    }
    return Restart();
  }

  vmm::Vm vm_;
  std::optional<vmm::Vcpu> vcpu_;
  std::span<std::byte> all_;
  BoxMode mode_;
  std::uint8_t canary_;
};

}  // namespace nestbench::conformance
