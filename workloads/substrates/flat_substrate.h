// The substrate around a flat machine, for guests that behave and for those that do not. Private to the substrates.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "nestbench/substrates/flat.h"
#include "nestbench/vmm/kvm/stats.h"
#include "nestbench/vmm/machine/flat_machine.h"

namespace nestbench::substrates {

class FlatSubstrate final : public Substrate {
 public:
  // What is done to each request and to the machine, so that the guest goes wrong.
  struct Misconduct {
    std::uint64_t operation = 0;
    std::uint64_t parameter = 0;
    std::uint64_t seed = 0;
    std::optional<std::uint8_t> held_interrupt = {};
  };

  static Result<std::unique_ptr<Substrate>> Create(FlatMode mode, const FlatOptions& options,
                                                   const std::optional<Misconduct>& misconduct);

  Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) override;
  [[nodiscard]] std::span<const std::byte> mailbox() const override { return machine_.mailbox(); }
  [[nodiscard]] const vmm::MemoryRegion* arena() const override { return nullptr; }
  [[nodiscard]] abi::Doorbell doorbell() const override { return abi::Doorbell::kPort; }
  [[nodiscard]] std::optional<std::uint64_t> exits() const override;
  [[nodiscard]] int statistics_fd() const override { return stats_ ? stats_->fd() : -1; }

 private:
  FlatSubstrate(vmm::FlatMachine machine, std::optional<vmm::BinaryStats> stats,
                const std::optional<Misconduct>& misconduct)
      : machine_(std::move(machine)), stats_(std::move(stats)), misconduct_(misconduct) {}

  vmm::FlatMachine machine_;
  std::optional<vmm::BinaryStats> stats_;
  std::optional<Misconduct> misconduct_;
};

}  // namespace nestbench::substrates
