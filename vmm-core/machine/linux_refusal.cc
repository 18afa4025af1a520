#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/machine/flat_machine.h"
#include "nestbench/vmm/machine/linux_machine.h"

namespace nestbench::vmm {
namespace {

constexpr std::chrono::milliseconds kLimit{500};  // of one instruction; it takes microseconds

struct Needed {
  const char* name;
  const char* why;
  std::initializer_list<std::uint8_t> code;
};

// What every kernel executes at CPL0 on its way to user space, and what an emulator of instructions may leave out.
constexpr Needed kNeeded[] = {
    {"INT3", "with which a kernel tests at each start that it can change its own code", {0xCC}},
};

// The instruction, then the doorbell; and an exception that it raises leaves by the panic port.
std::vector<std::byte> Binary(const Needed& needed) {
  std::vector<std::byte> binary;
  const auto put_out = [&binary](std::uint16_t port) {
    // mov edx, port; out dx, eax
    for (const unsigned byte : {0xBAU, port & 0xFFU, static_cast<unsigned>(port >> 8), 0U, 0U, 0xEFU}) {
      binary.push_back(static_cast<std::byte>(byte));
    }
  };
  for (unsigned vector = 0; vector < kFlatVectors; ++vector) {
    put_out(abi::kPanicPort);
    binary.resize((vector + std::size_t{1}) * kFlatStubBytes);
  }
  for (const std::uint8_t byte : needed.code) binary.push_back(static_cast<std::byte>(byte));
  put_out(abi::kDoorbellPort);
  return binary;
}

}  // namespace

std::optional<std::string> FindRefusedInstruction(const KvmDevice& device) {
  for (const Needed& needed : kNeeded) {
    // What cannot be tried is not refused: the machine itself will say what is wrong.
    auto machine = FlatMachine::Create(device, Binary(needed), FlatMode::kSupervisor64);
    if (!machine) return std::nullopt;
    auto deadline = RunDeadline::Start(machine->vcpu(), kLimit);
    if (!deadline) return std::nullopt;
    const auto stop = machine->RunUntilStop();
    if (stop && stop->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
      return fmt::format("this KVM emulates the kernels of its guests, and refuses {} ({:02x}), {}\n{}", needed.name,
                         fmt::join(needed.code, " "), needed.why, stop->text);
    }
  }
  return std::nullopt;
}

}  // namespace nestbench::vmm
