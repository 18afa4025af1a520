// One guest, several times: through vmm-core (`vm`), in raw ioctls (`floor`), and through vmm-core as the guest of a
// hypervisor in the guest (`nested`, `nested_shadow`). All types have the same members, so that one template is the
// benchmark of all and they differ in nothing else.
#pragma once

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>

#include "environment.h"
#include "nestbench/abi/mailbox.h"
#include "nestbench/floor/raw_alarm.h"
#include "nestbench/floor/raw_user_vm.h"
#include "nestbench/hypervisors/images.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/machine/user_machine.h"

namespace nestbench::micro {

// No wait for a guest is longer: a batch of exits takes a second even where each costs a quarter of a millisecond.
inline constexpr std::chrono::seconds kGuestLimit{20};

// By KVM's own count of the vCPU; zero where there is none.
struct ExitCounts {
  std::uint64_t exits = 0;
  std::uint64_t nested_runs = 0;  // entries of a guest of the guest
};

class LibraryGuest {
 public:
  static constexpr const char* kSubstrate = "vm";

  LibraryGuest(Environment& environment, std::span<const std::byte> image) : LibraryGuest(environment, image, {}) {}

  // Holds off a guest that never rings. One at a time; ends before the guest does.
  [[nodiscard]] vmm::RunDeadline StartDeadline() { return Take(vmm::RunDeadline::Start(machine_.vcpu(), kGuestLimit)); }

  void WriteRequest(const abi::MailboxRequest& request) {
    std::memcpy(machine_.mailbox().data(), &request, sizeof(request));
  }
  [[nodiscard]] const std::byte* mailbox() const { return machine_.mailbox().data(); }

  // Enters the guest until it rings. False when it ended otherwise; then Why() says how.
  template <abi::Doorbell>
  [[nodiscard]] bool Ring() {
    auto stop = machine_.RunUntilStop();
    if (stop && stop->reason == vmm::StopReason::kDoorbell) return true;
    why_ = stop ? std::move(stop->text) : stop.error().ToString();
    return false;
  }
  [[nodiscard]] const std::string& Why() const { return why_; }

  // Enters the guest until a kick or a signal ends it. False when it ended otherwise.
  [[nodiscard]] bool RunUntilKicked() {
    auto stop = machine_.RunUntilStop();
    if (stop && stop->reason == vmm::StopReason::kInterrupted) return true;
    why_ = stop ? std::move(stop->text) : stop.error().ToString();
    return false;
  }
  // What another thread kicks this one with.
  [[nodiscard]] std::function<void()> Kicker() {
    return [kicker = machine_.vcpu().Kicker()] { kicker.Kick(); };
  }

  void AttachEvent(int eventfd) { Take(machine_.AttachEvent(eventfd)); }
  [[nodiscard]] ExitCounts Counts() {
    auto stats = machine_.vcpu().Stats();
    if (!stats) return {};
    return {.exits = stats->Get("exits").value_or(0), .nested_runs = stats->Get("nested_run").value_or(0)};
  }
  [[nodiscard]] vmm::UserMachine& machine() { return machine_; }

 protected:
  LibraryGuest(Environment& environment, std::span<const std::byte> image, const vmm::UserMachineOptions& options)
      : machine_(Take(vmm::UserMachine::Create(environment.device(), image, options))) {}

 private:
  vmm::UserMachine machine_;
  std::string why_;
};

template <bool kNestedPaging>
class GuestOfGuest : public LibraryGuest {
 public:
  static constexpr const char* kSubstrate = kNestedPaging ? "nested" : "nested_shadow";

  GuestOfGuest(Environment& environment, std::span<const std::byte> image)
      : LibraryGuest(environment, image,
                     OptionsOf(vmm::NestedOptions{hypervisors::Svm(), hypervisors::Vmx(), kNestedPaging})) {}

 private:
  static vmm::UserMachineOptions OptionsOf(const vmm::NestedOptions& nested) {
    vmm::UserMachineOptions options;
    options.nested = nested;
    return options;
  }
};

class FloorGuest {
 public:
  static constexpr const char* kSubstrate = "floor";

  FloorGuest(Environment& environment, std::span<const std::byte> image) : guest_(environment.raw_kvm(), image) {}

  [[nodiscard]] floor::RawAlarm StartDeadline() { return {guest_.vm().run(), kGuestLimit}; }

  void WriteRequest(const abi::MailboxRequest& request) { guest_.WriteRequest(request); }
  [[nodiscard]] const std::byte* mailbox() const { return guest_.mailbox(); }

  template <abi::Doorbell kDoorbell>
  [[nodiscard]] bool Ring() {
    if constexpr (kDoorbell == abi::Doorbell::kPort) {
      return guest_.RunToDoorbellPort();
    } else {
      return guest_.RunToDoorbellPage();
    }
  }
  [[nodiscard]] std::string Why() const { return guest_.vm().DescribeLastExit(); }

  [[nodiscard]] bool RunUntilKicked() {
    if (::ioctl(guest_.vm().vcpu_fd(), KVM_RUN, 0) == 0 || errno != EINTR) return false;
    guest_.vm().run()->immediate_exit = 0;
    return true;
  }
  [[nodiscard]] std::function<void()> Kicker() {
    floor::InstallRawKickHandler();
    return
        [run = guest_.vm().run(), thread = static_cast<pid_t>(::syscall(SYS_gettid))] { floor::RawKick(run, thread); };
  }

  void AttachEvent(int eventfd) { guest_.AttachEvent(eventfd); }
  [[nodiscard]] static ExitCounts Counts() { return {}; }
  [[nodiscard]] floor::RawUserVm& raw() { return guest_; }

 private:
  floor::RawUserVm guest_;
};

// A request for a payload without an arena.
inline abi::MailboxRequest MakeRequest(abi::Command command, abi::Doorbell doorbell, std::uint64_t operation,
                                       std::uint64_t iterations) {
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.command = command;
  request.doorbell = doorbell;
  request.sequence = 1;
  request.operation = operation;
  request.iterations = iterations;
  request.seed = 1;
  request.arena_base = abi::kArenaBase;
  return request;
}

// Ring() that throws Broken.
template <abi::Doorbell kDoorbell, typename Guest>
void RingOrThrow(Guest& guest) {
  if (!guest.template Ring<kDoorbell>()) throw Broken{fmt::format("the guest did not ring: {}", guest.Why())};
}

// Performs one command of a payload and throws Broken unless it answers "ok".
template <abi::Doorbell kDoorbell, typename Guest>
void Perform(Guest& guest, abi::Command command, std::uint64_t operation, std::uint64_t iterations) {
  guest.WriteRequest(MakeRequest(command, kDoorbell, operation, iterations));
  RingOrThrow<kDoorbell>(guest);
  abi::MailboxReply reply;
  std::memcpy(&reply, guest.mailbox() + offsetof(abi::Mailbox, reply), sizeof(reply));
  if (reply.status != abi::PayloadStatus::kOk) {
    throw Broken("the payload answers: " + std::string(reply.message, ::strnlen(reply.message, sizeof(reply.message))));
  }
}

}  // namespace nestbench::micro
