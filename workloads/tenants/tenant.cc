#include "tenant.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "activities.h"
#include "guests.h"
#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/tenants/latency_histogram.h"
#include "nestbench/vmm/base/clock.h"
#include "signals.h"
#include "vmm_faults.h"

namespace nestbench::tenants {
namespace {

using substrates::CallEnd;
using substrates::Substrate;
using vmm::Error;
using vmm::Fail;
using vmm::Result;

constexpr std::uint64_t kSetUpLimitNs = 10'000'000'000;
constexpr std::uint64_t kSliceNs = 10'000'000;     // of an activity's duty cycle
constexpr std::size_t kMaxWindowLatencies = 8192;  // further ones of one window count, but not for its percentiles
constexpr std::uint64_t kMaxIdleWaitNs = 1'000'000'000;

template <std::size_t kSize>
void SetText(char (&out)[kSize], std::string_view text) {
  const std::size_t bytes = std::min(text.size(), kSize - 1);
  std::memcpy(out, text.data(), bytes);
  out[bytes] = '\0';
}

std::uint64_t CpuNs() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

class Tenant {
 public:
  Tenant(const Inheritance& inheritance, const Spawn& spawn, Channel channel)
      : inheritance_(inheritance), spawn_(spawn), channel_(std::move(channel)) {}

  int Live() {
    SetLastWordsSocket(channel_.get());
    if (auto done = Confine(); !done) return GiveUp(FaultClass::kHostResource, done.error());
    if (spawn_.starts_itself == 0 && !WaitForStart()) return 0;
    const std::uint64_t begin_ns = vmm::MonotonicNs();
    if (spawn_.has_disk != 0) faults_.disk = std::make_shared<substrates::DiskFaults>();
    if (spawn_.has_network != 0) faults_.network = std::make_shared<substrates::NetFaults>();
    auto guest = CreateGuest(inheritance_, spawn_, faults_);
    if (!guest) return GiveUp(ClassOf(guest.error()), guest.error());
    guest_ = std::move(*guest);
    auto first = Command(abi::Command::kNone, 1, kSetUpLimitNs);
    if (!first) return Die(first.error());
    if (auto done = LoadFilter(); !done) return GiveUp(FaultClass::kHostResource, done.error());
    if (auto done = StartHeartbeats(channel_.get(), &pulse_, std::chrono::milliseconds(spawn_.heartbeat_ms)); !done) {
      return GiveUp(FaultClass::kHostResource, done.error());
    }
    const vmm::MemoryRegion* arena = guest_->arena();
    const Ready ready = {.set_up_ns = vmm::MonotonicNs() - begin_ns,
                         .memory_base = arena == nullptr ? 0 : reinterpret_cast<std::uint64_t>(arena->bytes().data()),
                         .memory_bytes = arena == nullptr ? 0 : arena->bytes().size(),
                         .first_exit_ns = first->outside_ns,
                         .clock_ticks = 0,
                         .has_statistics = guest_->statistics_fd() >= 0 ? 1U : 0U};
    if (!channel_.Send(MessageType::kReady, ready, guest_->statistics_fd())) return 0;
    return Serve();
  }

 private:
  // How a command failed, when the guest is at fault and not the host.
  struct Answer {
    std::uint64_t outside_ns = 0;
    std::uint64_t checksum = 0;
  };
  struct Failure {
    FaultClass fault_class = FaultClass::kGuestFault;
    std::string cause;
    std::string evidence;
    int error_number = 0;
  };
  using AnswerOr = tl::expected<Answer, Failure>;

  Result<> Confine() const {
    const auto limit = [](__rlimit_resource resource, rlim_t value) -> Result<> {
      const rlimit both = {value, value};
      if (::setrlimit(resource, &both) != 0) return Fail(Error::System("setrlimit", errno));
      return {};
    };
    if (spawn_.has_disk == 0) {
      if (auto done = limit(RLIMIT_FSIZE, 0); !done) return done;
    }
    if (spawn_.max_files != 0) {
      if (auto done = limit(RLIMIT_NOFILE, spawn_.max_files); !done) return done;
    }
    if (spawn_.max_processes != 0) {
      if (auto done = limit(RLIMIT_NPROC, spawn_.max_processes); !done) return done;
    }
    if (spawn_.cpu >= 0) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(static_cast<unsigned>(spawn_.cpu), &set);
      if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
        return Fail(Error::System("sched_setaffinity", errno, fmt::format("CPU {}", spawn_.cpu)));
      }
    }
    return {};
  }

  [[nodiscard]] bool HasDevices() const { return spawn_.has_disk != 0 || spawn_.has_network != 0; }

  Result<> LoadFilter() const {
    const auto& filter = spawn_.may_fork != 0 ? inheritance_.forking_filter
                         : HasDevices()       ? inheritance_.device_filter
                                              : inheritance_.filter;
    return filter ? filter->Load() : Result<>{};
  }

  bool WaitForStart() {
    for (;;) {
      pollfd polled = {channel_.get(), POLLIN, 0};
      if (::poll(&polled, 1, -1) < 0 && errno != EINTR) return false;
      auto received = channel_.Receive(message_);
      if (!received || *received == Channel::Outcome::kClosed) return false;
      if (*received == Channel::Outcome::kMessage) {
        if (message_.type() == MessageType::kStart) return true;
        if (message_.type() == MessageType::kStop) return false;
      }
    }
  }

  static FaultClass ClassOf(const Error& error) {
    return error.kind == vmm::ErrorKind::kUnsupported ? FaultClass::kUnsupported : FaultClass::kHostResource;
  }

  // Last words; the exit code says that there are some.
  int GiveUp(FaultClass fault_class, const Error& error) {
    return Die({.fault_class = fault_class,
                .cause = error.ToString(),
                .evidence = {},
                .error_number = error.kind == vmm::ErrorKind::kSystem ? error.error_number : 0});
  }
  int Die(const Failure& failure) {
    SendFault(MessageType::kFault, failure);
    return 1;
  }
  void SendFault(MessageType type, const Failure& failure) {
    auto fault = std::make_unique<Fault>();
    fault->fault_class = failure.fault_class;
    fault->error_number = failure.error_number;
    SetText(fault->cause, failure.cause);
    SetText(fault->evidence, failure.evidence);
    (void)channel_.Send(type, *fault);  // there is nobody else to tell
  }
  void LogLine(std::string_view text) {
    Log log = {.at_ns = vmm::MonotonicNs(), .text = {}};
    SetText(log.text, text);
    (void)channel_.Send(MessageType::kLog, log);
  }

  AnswerOr Command(abi::Command command, std::uint64_t iterations, std::uint64_t limit_ns) {
    abi::MailboxRequest request = {};
    request.magic = abi::kMailboxMagic;
    request.version = abi::kMailboxVersion;
    request.command = command;
    request.doorbell = guest_->doorbell();
    request.sequence = ++sequence_;
    request.operation = load_.operation;
    request.iterations = std::max<std::uint64_t>(iterations, 1);
    request.seed = spawn_.seed;
    request.arena_base = abi::kArenaBase;
    request.arena_bytes = spawn_.arena_bytes;
    std::ranges::copy(load_.parameters, request.parameters);
    pulse_.request_since_ns = vmm::MonotonicNs();
    auto outcome = guest_->Call(request, std::chrono::nanoseconds(limit_ns));
    pulse_.request_since_ns = 0;
    if (!outcome) {
      return tl::unexpected(
          Failure{FaultClass::kHostResource, outcome.error().ToString(), {}, outcome.error().error_number});
    }
    if (outcome->end != CallEnd::kRang) return tl::unexpected(FailureOf(*outcome, nullptr));
    // It answered, and there is evidence all the same: of a guest that tried what it may not.
    if (outcome->evidence) {
      if (auto judgement = Judge(*outcome, nullptr)) LogLine("survived: " + judgement->cause);
    }
    auto reply = substrates::ReadReply(guest_->mailbox(), request);
    if (!reply) return tl::unexpected(FailureOf(*outcome, &reply.error()));
    if (reply->status != abi::PayloadStatus::kOk) {
      const bool unsupported = reply->status == abi::PayloadStatus::kUnsupported;
      return tl::unexpected(Failure{unsupported ? FaultClass::kUnsupported : FaultClass::kGuestFault,
                                    reply->message.empty() ? "the payload refused without a message" : reply->message,
                                    {},
                                    0});
    }
    return Answer{outcome->outside_ns, reply->checksum};
  }

  Failure FailureOf(const substrates::CallOutcome& outcome, const Error* refused) {
    if (auto judgement = Judge(outcome, refused)) {
      return {judgement->fault_class, std::move(judgement->cause), outcome.text, 0};
    }
    return {FaultClass::kGuestFault, refused == nullptr ? "the guest failed" : refused->ToString(), outcome.text, 0};
  }

  int Serve() {
    for (;;) {
      if (!TakeMessages()) return 0;
      if (exit_code_) return *exit_code_;
      const std::uint64_t now = vmm::MonotonicNs();
      if (load_.activity == Activity::kNone) {
        Wait(now + kMaxIdleWaitNs);
        continue;
      }
      if (now >= window_end_ns_) EndWindow(now);
      if (load_.activity == Activity::kRequests && load_.period_ns != 0) {
        if (now < next_due_ns_) {
          Wait(std::min(next_due_ns_, window_end_ns_));
          continue;
        }
        if (!ServeRequest(next_due_ns_)) return *exit_code_;
        next_due_ns_ += load_.period_ns;
        continue;
      }
      if (!RunSlice(now)) return *exit_code_;
    }
  }

  // Closed loop and the other activities: busy for their share of each slice.
  bool RunSlice(std::uint64_t begin_ns) {
    const std::uint64_t busy_ns = kSliceNs * std::min<std::uint64_t>(load_.intensity_percent, 100) / 100;
    do {
      if (!OnePass()) return false;
    } while (vmm::MonotonicNs() < begin_ns + busy_ns);
    if (load_.intensity_percent < 100) {
      // A pass that took longer than its share earns a longer rest.
      const std::uint64_t took = vmm::MonotonicNs() - begin_ns;
      const std::uint64_t share = std::max<std::uint64_t>(load_.intensity_percent, 1);
      Wait(begin_ns + std::max(kSliceNs, took * 100 / share));
    }
    return true;
  }

  bool OnePass() {
    switch (load_.activity) {
      case Activity::kNone:
        return true;
      case Activity::kRequests:
      case Activity::kTimerStorm:
        return ServeRequest(vmm::MonotonicNs());
      case Activity::kVmChurn:
        return CountPass(ChurnVm(*inheritance_.device));
      case Activity::kProcesses:
        return CountPass(ChurnProcesses(inheritance_.device ? &*inheritance_.device : nullptr));
      case Activity::kHoldMemory:
        return true;  // SetLoad() has done it
      case Activity::kChurnMemory: {
        if (!TouchMemory()) return false;
        if (auto given = guest_->arena()->Discard(); !given) {
          exit_code_ = GiveUp(FaultClass::kHostResource, given.error());
          return false;
        }
        return true;
      }
    }
    return true;
  }

  bool CountPass(const Result<>& passed) {
    if (!passed) {
      exit_code_ = GiveUp(FaultClass::kHostResource, passed.error());
      return false;
    }
    ++window_.activities;
    return true;
  }

  bool TouchMemory() {
    auto answer = Command(abi::Command::kRun, load_.hold_bytes / abi::kPageBytes, load_.request_limit_ns);
    if (!answer) {
      exit_code_ = Die(answer.error());
      return false;
    }
    ++window_.activities;
    return true;
  }

  bool ServeRequest(std::uint64_t due_ns) {
    auto answer = Command(abi::Command::kRun, load_.iterations, load_.request_limit_ns);
    if (!answer) {
      exit_code_ = Die(answer.error());
      return false;
    }
    const std::uint64_t latency_ns = vmm::MonotonicNs() - std::min(due_ns, vmm::MonotonicNs());
    if (totals_.requests == 0) totals_.checksum = answer->checksum;
    const bool wrong = answer->checksum != totals_.checksum;
    totals_.wrong += wrong ? 1 : 0;
    window_.wrong += wrong ? 1 : 0;
    ++totals_.requests;
    ++window_.requests;
    pulse_.requests = pulse_.requests + 1;
    histogram_.Record(latency_ns);
    if (latencies_.size() < kMaxWindowLatencies) latencies_.push_back(latency_ns);
    window_.max_ns = std::max(window_.max_ns, latency_ns);
    return true;
  }

  void BeginWindow(std::uint64_t now) {
    window_ = {};
    window_.begin_ns = now;
    latencies_.clear();
    window_cpu_ns_ = CpuNs();
    window_exits_ = guest_->exits().value_or(0);
    window_end_ns_ = now + load_.window_ns;
  }

  // How many requests were due in [begin, end), whether they were served or not.
  [[nodiscard]] std::uint64_t DueBefore(std::uint64_t at_ns) const {
    if (load_.period_ns == 0 || at_ns <= first_due_ns_) return 0;
    return (at_ns - first_due_ns_ + load_.period_ns - 1) / load_.period_ns;
  }

  void EndWindow(std::uint64_t now) {
    window_.duration_ns = now - window_.begin_ns;
    window_.due = load_.period_ns == 0 ? window_.requests : DueBefore(now) - DueBefore(window_.begin_ns);
    if (load_.period_ns != 0 && now > next_due_ns_) window_.backlog = (now - next_due_ns_) / load_.period_ns + 1;
    if (!latencies_.empty()) {
      window_.p50_ns = Percentile(0.50);
      window_.p99_ns = Percentile(0.99);
    }
    window_.cpu_ns = CpuNs() - window_cpu_ns_;
    window_.exits = guest_->exits().value_or(0) - window_exits_;
    totals_.due += window_.due;
    totals_.exits += window_.exits;
    totals_.cpu_ns += window_.cpu_ns;
    // Not worth waiting for a supervisor that does not read: it would then be our latency.
    SendRaw(channel_.get(), MessageType::kWindow, &window_, sizeof(window_));
    BeginWindow(now);
  }

  std::uint64_t Percentile(double quantile) {
    const auto rank = static_cast<std::size_t>(quantile * static_cast<double>(latencies_.size()));
    const auto at = latencies_.begin() + static_cast<std::ptrdiff_t>(std::min(rank, latencies_.size() - 1));
    std::ranges::nth_element(latencies_, at);
    return *at;
  }

  // Until a message comes or the time is there.
  void Wait(std::uint64_t until_ns) {
    const std::uint64_t now = vmm::MonotonicNs();
    if (until_ns <= now) return;
    const std::uint64_t left = until_ns - now;
    const timespec timeout = {.tv_sec = static_cast<time_t>(left / 1'000'000'000),
                              .tv_nsec = static_cast<long>(left % 1'000'000'000)};
    pollfd polled = {channel_.get(), POLLIN, 0};
    ::ppoll(&polled, 1, &timeout, nullptr);  // a signal only makes the caller look again
  }

  // False when there is nothing left to live for.
  bool TakeMessages() {
    for (;;) {
      auto received = channel_.Receive(message_);
      if (!received || *received == Channel::Outcome::kClosed) return false;
      if (*received == Channel::Outcome::kNothing) return true;
      switch (message_.type()) {
        case MessageType::kStop:
          return false;
        case MessageType::kSetLoad:
          SetLoad(message_.As<Load>());
          break;
        case MessageType::kReport:
          SendReport(message_.As<ReportRequest>());
          break;
        case MessageType::kInject:
          InjectFault(message_.As<Inject>());
          break;
        default:
          break;  // not for us; a later supervisor may say more
      }
      if (exit_code_) return true;
    }
  }

  void SetLoad(const Load& load) {
    (void)SetTimerStorm(std::chrono::nanoseconds(0));
    load_ = load;
    load_.window_ns = std::max<std::uint64_t>(load_.window_ns, 1'000'000);
    if (load_.request_limit_ns == 0) load_.request_limit_ns = kSetUpLimitNs;
    pulse_.state = TenantState::kIdle;
    if (load.activity == Activity::kNone) return;
    if (auto able = CheckLoad(); !able) {
      load_.activity = Activity::kNone;
      SendFault(MessageType::kLoadRefused, able.error());
      return;
    }
    pulse_.state = TenantState::kServing;
    totals_ = {};
    histogram_.Clear();
    const std::uint64_t now = vmm::MonotonicNs();
    totals_.begin_ns = now;
    first_due_ns_ = next_due_ns_ = now + load_.phase_ns;
    BeginWindow(now);
    LogLine(fmt::format("load: {}, operation {}, {} iterations, period {} ns, {} %", ToString(load_.activity),
                        load_.operation, load_.iterations, load_.period_ns, load_.intensity_percent));
    if (load_.activity != Activity::kHoldMemory) {
      latencies_.reserve(kMaxWindowLatencies);
      return;
    }
    if (!TouchMemory()) return;
    held_bytes_ = load_.hold_bytes;
    load_.activity = Activity::kNone;
    pulse_.state = TenantState::kIdle;
  }

  tl::expected<void, Failure> CheckLoad() {
    const auto refuse = [](FaultClass fault_class, std::string cause) {
      return tl::unexpected(Failure{fault_class, std::move(cause), {}, 0});
    };
    const bool touches = load_.activity == Activity::kHoldMemory || load_.activity == Activity::kChurnMemory;
    if (touches && (guest_->arena() == nullptr || load_.hold_bytes > spawn_.arena_bytes)) {
      return refuse(FaultClass::kUnsupported, "its arena is smaller than what it shall touch");
    }
    if (load_.activity == Activity::kVmChurn && !inheritance_.device) {
      return refuse(FaultClass::kUnsupported, inheritance_.device_reason);
    }
    if (load_.activity == Activity::kProcesses && spawn_.may_fork == 0) {
      return refuse(FaultClass::kUnsupported, "it may not start processes");
    }
    if (load_.activity == Activity::kRequests || load_.activity == Activity::kTimerStorm || touches) {
      if (auto ready = Command(abi::Command::kSetUp, load_.iterations, kSetUpLimitNs); !ready) {
        return tl::unexpected(ready.error());
      }
    }
    if (load_.activity == Activity::kTimerStorm) {
      // Where leaving a guest costs tens of microseconds, a faster flood would let it do nothing at all.
      constexpr std::uint64_t kFastestNs = 100'000;
      const std::uint64_t interval = kFastestNs * 100 / std::max<std::uint32_t>(load_.intensity_percent, 1);
      if (auto stormy = SetTimerStorm(std::chrono::nanoseconds(interval)); !stormy) {
        return refuse(FaultClass::kHostResource, stormy.error().ToString());
      }
      load_.intensity_percent = 100;
    }
    return {};
  }

  void SendReport(const ReportRequest& request) {
    Totals totals = totals_;
    totals.end_ns = vmm::MonotonicNs();
    totals.held_bytes = held_bytes_;
    if (request.verify != 0 && totals_.requests != 0) {
      auto checked = Command(abi::Command::kVerify, load_.iterations, load_.request_limit_ns);
      totals.verified = checked ? 1 : 2;
      if (!checked) LogLine(fmt::format("verify: {}", checked.error().cause));
    }
    auto part = std::make_unique_for_overwrite<HistogramPart>();
    part->count = 0;
    const auto flush = [&] {
      if (part->count == 0) return;
      (void)channel_.Send(MessageType::kHistogram, *part);
      ++totals.histogram_parts;
      part->count = 0;
    };
    const auto& counts = histogram_.counts();
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] == 0) continue;
      part->entries[part->count++] = {static_cast<std::uint32_t>(i), counts[i]};
      if (part->count == kHistogramEntries) flush();
    }
    flush();
    (void)channel_.Send(MessageType::kTotals, totals);
    if (request.reset != 0) {
      const std::uint64_t checksum = totals_.checksum;
      totals_ = {};
      totals_.checksum = checksum;
      totals_.begin_ns = totals.end_ns;
      histogram_.Clear();
    }
  }

  void InjectFault(const Inject& inject) {
    LogLine(fmt::format("inject fault {}", inject.fault));
    pulse_.state = TenantState::kFaulty;
    if (const int error = DiskErrorOf(inject.fault); error != 0) return BreakDisk(error);
    if (inject.fault == static_cast<std::uint32_t>(VmmFault::kLinkDown)) return PullCable();
    if (inject.fault < kFirstGuestFault) {
      auto ended = CommitVmmFault(inject, inheritance_);
      exit_code_ = Die({ended.fault_class, std::move(ended.cause), std::move(ended.evidence), ended.error_number});
      return;
    }
    guest_.reset();  // its addresses and its memory are the new one's
    auto faulty = CreateFaultyGuest(inheritance_, inject);
    if (!faulty) {
      exit_code_ = GiveUp(ClassOf(faulty.error()), faulty.error());
      return;
    }
    guest_ = std::move(*faulty);
    const std::uint64_t limit_ns = load_.request_limit_ns == 0 ? kSetUpLimitNs : load_.request_limit_ns;
    if (auto answer = Command(abi::Command::kRun, 1, limit_ns); !answer) {
      exit_code_ = Die(answer.error());
      return;
    }
    LogLine("the faulty guest answered as if nothing were");
    pulse_.state = TenantState::kIdle;
    load_.activity = Activity::kNone;
  }

  static int DiskErrorOf(std::uint32_t fault) {
    if (fault == static_cast<std::uint32_t>(VmmFault::kDiskInputOutput)) return EIO;
    return fault == static_cast<std::uint32_t>(VmmFault::kDiskNoSpace) ? ENOSPC : 0;
  }

  // The disk fails from here on: the next request of the guest must come back with an error, and nothing else may go
  // wrong.
  void BreakDisk(int error_number) {
    if (faults_.disk == nullptr || spawn_.kind == TenantKind::kBare) {
      return DieOf(FaultClass::kUnsupported, "it has no disk that could fail", {}, 0);
    }
    faults_.disk->error_number.store(error_number);
    auto answer = RunOnce();
    const std::uint64_t failed = faults_.disk->failed_requests.load();
    const std::string evidence =
        fmt::format("{} requests ended with {}; the guest said: {}", failed, ::strerrorname_np(error_number),
                    answer ? "all is well" : answer.error().cause);
    if (failed == 0) return DieOf(FaultClass::kVmmFault, "no request failed", evidence, 0);
    DieAsTold("disk failed", answer, evidence, error_number);
  }

  // The link of its network goes down: the guest must notice, and nothing else may go wrong.
  void PullCable() {
    if (faults_.network == nullptr || faults_.network->set_link == nullptr) {
      return DieOf(FaultClass::kUnsupported, "it has no network", {}, 0);
    }
    faults_.network->set_link(false);
    auto answer = RunOnce();
    DieAsTold("link down", answer, fmt::format("the guest said: {}", answer ? "all is well" : answer.error().cause),
              ENETDOWN);
  }

  AnswerOr RunOnce() {
    const std::uint64_t limit_ns = load_.request_limit_ns == 0 ? kSetUpLimitNs : load_.request_limit_ns;
    return Command(abi::Command::kRun, std::max<std::uint64_t>(load_.iterations, 1), limit_ns);
  }

  // Ends with what a guest made of a device that failed.
  void DieAsTold(std::string_view cause, const AnswerOr& answer, const std::string& evidence, int error_number) {
    if (answer) return DieOf(FaultClass::kVmmFault, "the guest was not told", evidence, 0);
    if (answer.error().fault_class == FaultClass::kHang) return DieOf(FaultClass::kHang, "hang", evidence, 0);
    DieOf(FaultClass::kHostResource, cause, evidence, error_number);
  }
  void DieOf(FaultClass fault_class, std::string_view cause, const std::string& evidence, int error_number) {
    exit_code_ = Die({fault_class, std::string(cause), evidence, error_number});
  }

  const Inheritance& inheritance_;
  Spawn spawn_;
  Channel channel_;
  DeviceFaults faults_;
  std::unique_ptr<Substrate> guest_;
  ReceivedMessage message_;
  std::uint64_t sequence_ = 0;
  Load load_{};
  Pulse pulse_;
  std::optional<int> exit_code_;

  Totals totals_{};
  Window window_{};
  LatencyHistogram histogram_;
  std::vector<std::uint64_t> latencies_;
  std::uint64_t window_cpu_ns_ = 0;
  std::uint64_t window_exits_ = 0;
  std::uint64_t window_end_ns_ = 0;
  std::uint64_t first_due_ns_ = 0;
  std::uint64_t next_due_ns_ = 0;
  std::uint64_t held_bytes_ = 0;
};

}  // namespace

int LiveAsTenant(const Inheritance& inheritance, const Spawn& spawn, Channel channel) {
  return Tenant(inheritance, spawn, std::move(channel)).Live();
}

}  // namespace nestbench::tenants
