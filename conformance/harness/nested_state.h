// The state of a vCPU that stands in L2: read, set, moved to another VM. `Base` is the fixture of a guest hypervisor,
// whose L2 code begins at kL2Code. Source: kernel document "The Definitive KVM API Documentation", sections
// "KVM_GET_NESTED_STATE" and "KVM_SET_NESTED_STATE".
#pragma once

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "long_mode.h"

namespace nestbench::conformance {

template <typename Base>
class NestedStateTest : public Base {
 protected:
  // Enters L2 and comes back when L2 has written to kMarkPort, which nobody intercepts.
  virtual bool ReachMark() = 0;
  // What a vCPU needs before it can take the state over, but for CPUID, registers and events.
  virtual void PrepareOther(vmm::Vcpu& other) = 0;

  static constexpr std::uint16_t kMarkPort = 0x50;
  static constexpr std::uint32_t kMark = 0x1234'5678;  // in L2's EAX at its HLT
  static constexpr std::uint64_t kHltOffset = 9;

  void SetUp() override {
    Base::SetUp();
    if (Base::IsSkipped() || Base::HasFatalFailure()) return;
    Base::LoadL2({0xB9, 0x78, 0x56, 0x34, 0x12,  // mov ecx, kMark
                  0xE6, kMarkPort,               // out
                  0x89, 0xC8, 0xF4});            // mov eax, ecx; hlt
  }

  // The port write is complete: that takes a KVM_RUN more, which must not run L2.
  void StandInL2() {
    ASSERT_TRUE(ReachMark());
    Base::vcpu().run()->immediate_exit = 1;
    EXPECT_EQ(ErrorOf(Base::vcpu().fd(), KVM_RUN), EINTR);
    Base::vcpu().run()->immediate_exit = 0;
    ASSERT_EQ(Get(), 0);
    ASSERT_NE(state().flags & KVM_STATE_NESTED_GUEST_MODE, 0U);
  }
  int Get() {
    state().size = sizeof(room_);
    return ErrorOf(Base::vcpu().fd(), KVM_GET_NESTED_STATE, &state());
  }
  int Set() { return ErrorOf(Base::vcpu().fd(), KVM_SET_NESTED_STATE, &state()); }
  kvm_nested_state& state() { return *reinterpret_cast<kvm_nested_state*>(room_); }

  // A second VM on the same memory whose vCPU takes over where this one stands.
  void Move() {
    auto vm = vmm::Vm::Create(Base::device());
    ASSERT_TRUE(vm) << vm.error().ToString();
    other_vm_.emplace(std::move(*vm));
    const kvm_userspace_memory_region region = {.slot = 0,
                                                .flags = 0,
                                                .guest_phys_addr = 0,
                                                .memory_size = Base::kMemoryBytes,
                                                .userspace_addr = reinterpret_cast<std::uint64_t>(&Base::Word(0))};
    ASSERT_EQ(ErrorOf(other_vm_->fd(), KVM_SET_USER_MEMORY_REGION, &region), 0);
    auto other = vmm::Vcpu::Create(*other_vm_, abi::VcpuId(0));
    ASSERT_TRUE(other) << other.error().ToString();
    other_.emplace(std::move(*other));
    const auto cpuid = Base::vcpu().GetCpuid();
    const auto sregs = Base::vcpu().GetSregs();
    const auto regs = Base::vcpu().GetRegs();
    const auto events = Base::vcpu().GetEvents();
    ASSERT_TRUE(cpuid && sregs && regs && events);
    ASSERT_TRUE(other_->SetCpuid(*cpuid));
    PrepareOther(*other_);
    ASSERT_TRUE(other_->SetSregs(*sregs));
    ASSERT_TRUE(other_->SetRegs(*regs));
    ASSERT_EQ(ErrorOf(other_->fd(), KVM_SET_NESTED_STATE, &state()), 0);
    ASSERT_TRUE(other_->SetEvents(*events));
  }
  // L1 in the other VM goes on to its next port write.
  void RunOther() {
    auto deadline = vmm::RunDeadline::Start(*other_, std::chrono::seconds(2));
    ASSERT_TRUE(deadline) << deadline.error().ToString();
    auto exit = other_->Run();
    ASSERT_TRUE(exit) << exit.error().ToString();
    const auto* io = std::get_if<vmm::IoExit>(&*exit);
    ASSERT_NE(io, nullptr) << vmm::ToString(*exit);
    EXPECT_EQ(io->port, Base::kDonePort) << "L1 tells of the exit";
  }
  void CloseOther() {
    other_.reset();
    other_vm_.reset();
  }

 private:
  std::optional<vmm::Vm> other_vm_;
  std::optional<vmm::Vcpu> other_;
  alignas(kvm_nested_state) std::byte room_[0x3000] = {};
};

}  // namespace nestbench::conformance
