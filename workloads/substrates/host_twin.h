// What the twins of guests with devices share: a substrate without an image, whose work is compiled into this program.
// Private to this folder.
#pragma once

#include "nestbench/payload/payload.h"
#include "nestbench/substrates/substrate.h"

namespace nestbench::substrates {

class HostTwin : public Substrate {
 public:
  Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) override;

  [[nodiscard]] std::span<const std::byte> mailbox() const override { return mailbox_.bytes(); }
  [[nodiscard]] const vmm::MemoryRegion* arena() const override { return &arena_; }
  [[nodiscard]] abi::Doorbell doorbell() const override { return abi::Doorbell::kReturn; }
  [[nodiscard]] std::optional<std::uint64_t> exits() const override { return std::nullopt; }

 protected:
  struct Memory {
    vmm::MemoryRegion mailbox;
    vmm::MemoryRegion arena;
  };
  static Result<Memory> MakeMemory(std::uint64_t arena_bytes);
  explicit HostTwin(Memory memory) : mailbox_(std::move(memory.mailbox)), arena_(std::move(memory.arena)) {}

  // The three functions of a payload (payload/payload.h).
  virtual void SetUp(const payload::Args& args, payload::Result& result) = 0;
  virtual void Run(const payload::Args& args, payload::Result& result) = 0;

 private:
  void Answer(const abi::MailboxRequest& request);

  vmm::MemoryRegion mailbox_;
  vmm::MemoryRegion arena_;
  std::uint64_t checksum_ = 0;
};

}  // namespace nestbench::substrates
