#include <fmt/format.h>

#include <string>
#include <utility>

#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/substrates/substrate.h"

namespace nestbench::substrates {
namespace {

// Empty when the doorbell rang, else why not.
Result<std::string> Try(std::span<const std::byte> image, abi::Doorbell doorbell, std::chrono::nanoseconds limit) {
  auto vm = CreateVm({.image = image, .doorbell = doorbell});
  if (!vm) return Fail(std::move(vm.error()));
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.command = abi::Command::kNone;
  request.doorbell = doorbell;
  request.sequence = 1;
  request.iterations = 1;
  request.arena_base = abi::kArenaBase;
  auto outcome = (*vm)->Call(request, limit);
  if (!outcome) return outcome.error().ToString();
  if (outcome->end == CallEnd::kTimedOut) return std::string("no ring before the deadline");
  if (outcome->end == CallEnd::kCrashed) return outcome->text;
  if (auto reply = ReadReply((*vm)->mailbox(), request); !reply) return reply.error().ToString();
  return std::string();
}

}  // namespace

Result<abi::Doorbell> ChooseDoorbell(std::span<const std::byte> image, std::chrono::nanoseconds limit) {
  auto port = Try(image, abi::Doorbell::kPort, limit);
  if (!port) return Fail(std::move(port.error()));
  if (port->empty()) return abi::Doorbell::kPort;
  auto mmio = Try(image, abi::Doorbell::kMmio, limit);
  if (!mmio) return Fail(std::move(mmio.error()));
  if (mmio->empty()) return abi::Doorbell::kMmio;
  return Fail(Error::Unsupported("ring the doorbell from CPL3", fmt::format("by port: {}; by MMIO: {}", *port, *mmio)));
}

}  // namespace nestbench::substrates
