// The station that is not measured: it echoes, or takes what comes, on a thread of its own. Private to this folder.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "nestbench/abi/mailbox.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::substrates {

// The destructor ends the thread, whatever it does.
class NetPeerRunner {
 public:
  virtual ~NetPeerRunner() = default;

  // Begins its part of the work that `setup`, the other station's request, asks for. Returns when it is ready for the
  // first frame. `limit`: for all that it does. Once.
  virtual Result<void> Start(const abi::MailboxRequest& setup, std::chrono::nanoseconds limit) = 0;
  // What went wrong since; empty: nothing. From any thread.
  [[nodiscard]] virtual std::string problem() const = 0;
  [[nodiscard]] virtual std::optional<std::uint64_t> exits() const { return std::nullopt; }
};

// A socket of this process. `cpu`: its thread's; -1: any.
std::unique_ptr<NetPeerRunner> MakeSocketPeer(vmm::UniqueFd socket, int cpu);

// A guest, made on its thread: `options` are its own, with `make_devices`. kUnsupported and the like come from here.
Result<std::unique_ptr<NetPeerRunner>> MakeGuestPeer(const SubstrateOptions& options, int cpu);

// `setup` as the peer gets it.
abi::MailboxRequest PeerRequest(const abi::MailboxRequest& setup);

}  // namespace nestbench::substrates
