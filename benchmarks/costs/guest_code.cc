#include "guest_code.h"

#include <algorithm>
#include <iterator>

#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/machine/flat_machine.h"

namespace nestbench::costs {
namespace {

class Assembler {
 public:
  void Put(std::initializer_list<int> bytes) {
    std::ranges::transform(bytes, std::back_inserter(code_), [](int byte) { return static_cast<std::byte>(byte); });
  }
  void Put(Bytes bytes) {
    std::ranges::transform(bytes, std::back_inserter(code_), [](std::uint8_t byte) { return std::byte{byte}; });
  }
  void PutWord(std::uint64_t value) {
    for (unsigned shift = 0; shift < 32; shift += 8) code_.push_back(static_cast<std::byte>(value >> shift));
  }
  // The 32-bit distance from behind it to `target`, an offset in this code.
  void PutDistance(std::size_t target) { PutWord(target - (code_.size() + 4)); }
  void PadTo(std::size_t size) { code_.resize(size, std::byte{0xF4}); }
  [[nodiscard]] std::size_t size() const { return code_.size(); }
  std::vector<std::byte> Take() { return std::move(code_); }

 private:
  std::vector<std::byte> code_;
};

void PutStubs(Assembler& code, const Operation& operation) {
  for (unsigned vector = 0; vector < vmm::kFlatVectors; ++vector) {
    if (static_cast<int>(vector) == operation.handled_vector) {
      code.Put(operation.handler);
    } else {
      if (!abi::x86::HasErrorCode(vector)) code.Put({0x6A, 0});  // push 0
      code.Put({0x6A, static_cast<int>(vector)});                // push vector
      code.Put({0xBA});                                          // mov edx, the panic port
      code.PutWord(abi::kPanicPort);
      code.Put({0xEF, 0xF4});  // out dx, eax; hlt
    }
    code.PadTo((vector + 1) * std::size_t{vmm::kFlatStubBytes});
  }
}

void PutLoop(Assembler& code, Bytes body) {
  const std::size_t begin = code.size();
  code.Put(body);
  code.Put({0x49, 0xFF, 0xCF, 0x0F, 0x85});  // dec r15; jnz
  code.PutDistance(begin);
}

// `mailbox`: where the order is, below 2 GiB.
void PutLoops(Assembler& code, const Operation& operation, std::uint32_t mailbox) {
  const std::size_t entry = code.size();
  code.Put(operation.set_up);
  code.Put({0x4C, 0x8B, 0x3C, 0x25});  // mov r15, [passes]
  code.PutWord(mailbox + offsetof(Order, passes));
  code.Put({0x83, 0x3C, 0x25});  // cmp dword [with_operation], 0
  code.PutWord(mailbox + offsetof(Order, with_operation));
  code.Put({0x00});
  Assembler empty;
  PutLoop(empty, {});
  // The loop with the operation first: the jump goes over it and the jump behind it.
  Assembler full;
  PutLoop(full, operation.code);
  constexpr std::size_t kJumpBytes = 5;
  code.Put({0x0F, 0x84});  // je
  code.PutDistance(code.size() + 4 + full.size() + kJumpBytes);
  PutLoop(code, operation.code);
  code.Put({0xE9});  // jmp
  code.PutDistance(code.size() + 4 + empty.size());
  PutLoop(code, {});
  code.Put({0xBA});  // mov edx, the doorbell
  code.PutWord(abi::kDoorbellPort);
  code.Put({0xEF, 0xE9});  // out dx, eax; jmp
  code.PutDistance(entry);
}

}  // namespace

std::vector<std::byte> GuestCode(const Operation& operation) {
  Assembler code;
  PutStubs(code, operation);
  PutLoops(code, operation, vmm::kFlatMailboxBase);
  return code.Take();
}

std::vector<std::byte> UserCode(const Operation& operation) {
  Assembler code;
  PutLoops(code, operation, abi::kMailboxBase);
  return code.Take();
}

}  // namespace nestbench::costs
