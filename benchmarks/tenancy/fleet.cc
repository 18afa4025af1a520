#include "nestbench/tenancy/fleet.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/process/args.hpp>
#include <boost/process/child.hpp>
#include <boost/process/exe.hpp>
#include <boost/process/extend.hpp>
#include <boost/process/io.hpp>
#include <cerrno>
#include <fstream>
#include <system_error>
#include <utility>

#include "nestbench/vmm/base/clock.h"

namespace nestbench::tenancy {
namespace {

namespace process = boost::process;
using tenants::Channel;
using tenants::MessageType;
using vmm::Fail;

constexpr std::uint64_t kZygoteTag = 0;  // tenants count from 1
constexpr std::size_t kMaxLogLines = 16;
constexpr std::size_t kMaxWindows = 100'000;  // of a tenant that floods us; a real one sends ten a second
constexpr int kMaxEvents = 256;
constexpr auto kShutdownLimit = std::chrono::seconds(20);
constexpr auto kZonePoll = std::chrono::milliseconds(2);  // bubblewrap tells nobody when it is done

// Starts a program that inherits nothing but `socket` and, where it is none of -1, `disk`, and that dies with this
// thread.
Result<pid_t> StartWithSocket(const std::string& program, const std::vector<std::string>& arguments, int socket,
                              int disk) {
  const pid_t parent = ::getpid();
  // Between fork and exec: only async-signal-safe calls.
  const auto before_exec = [parent, socket, disk](auto& /*executor*/) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::signal(SIGINT, SIG_IGN);
    ::signal(SIGHUP, SIG_IGN);
    ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    ::fcntl(socket, F_SETFD, 0);
    if (disk >= 0) ::fcntl(disk, F_SETFD, 0);
  };
  std::error_code error;
  process::child child(process::exe = program, process::args = arguments,
                       process::std_in<process::null, process::std_out> process::null,
                       process::extend::on_exec_setup = before_exec, error);
  if (error) return Fail(Error::System("start", error.value(), program));
  const pid_t pid = child.id();
  child.detach();
  return pid;
}

std::string DiskArgument(int disk) { return disk < 0 ? "-" : std::to_string(disk); }

// As we see it from outside a zone (proc(5), task/<tid>/children).
std::optional<pid_t> FirstChild(pid_t parent) {
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", parent));
  pid_t child = 0;
  if (file >> child) return child;
  return std::nullopt;
}

std::string DescribeStatus(int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  }
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

}  // namespace

std::string Tenant::DescribeEnd() const {
  std::string text;
  const auto add = [&text](const std::string& part) {
    if (!text.empty()) text += "; ";
    text += part;
  };
  if (!lie.empty()) add("ended for its message: " + lie);
  if (fault) add(fault->cause);
  if (wait_status && *wait_status != 0) add(DescribeStatus(*wait_status));
  return text;
}

Result<std::unique_ptr<Fleet>> Fleet::Start(FleetOptions options) {
  // Orphans of a zygote that was killed become ours, so that they can be waited for.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  auto pair = Channel::CreatePair();
  if (!pair) return Fail(std::move(pair.error()));
  auto& [ours, theirs] = *pair;
  std::vector<std::string> arguments = {"zygote", std::to_string(theirs.get()), DiskArgument(options.disk)};
  for (const auto& image : options.images) arguments.push_back(image.string());
  auto pid = StartWithSocket(options.tenant_program.string(), arguments, theirs.get(), options.disk);
  if (!pid) return Fail(std::move(pid.error()));
  vmm::UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    const int error = errno;
    ::kill(*pid, SIGKILL);
    ::waitpid(*pid, nullptr, 0);
    return Fail(Error::System("epoll_create1", error));
  }
  std::unique_ptr<Fleet> fleet(new Fleet(std::move(options), std::move(ours), *pid, std::move(epoll)));
  if (auto watched = fleet->Watch(fleet->zygote_.get(), kZygoteTag); !watched) return Fail(std::move(watched.error()));
  return fleet;
}

Fleet::Fleet(FleetOptions options, Channel zygote, pid_t zygote_pid, vmm::UniqueFd epoll)
    : options_(std::move(options)),
      zygote_(std::move(zygote)),
      zygote_pid_(zygote_pid),
      epoll_(std::move(epoll)),
      message_(std::make_unique<tenants::ReceivedMessage>()) {}

Fleet::~Fleet() { Shutdown(); }

Result<> Fleet::Watch(int descriptor, std::uint64_t tag) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event) != 0) {
    return Fail(Error::System("epoll_ctl", errno));
  }
  return {};
}

Result<TenantId> Fleet::Add(tenants::Spawn spawn, bool in_zone) {
  if (!zygote_end_.empty()) return Fail(Error::System("start tenant", ESRCH, zygote_end_));
  auto pair = Channel::CreatePair();
  if (!pair) return Fail(std::move(pair.error()));
  auto tenant = std::make_unique<Tenant>();
  tenant->id = spawn.tenant = next_id_;
  tenant->spawn = spawn;
  tenant->in_zone = in_zone;
  tenant->asked_ns = vmm::MonotonicNs();
  tenant->channel = std::move(pair->first);
  if (auto watched = Watch(tenant->channel.get(), tenant->id); !watched) return Fail(std::move(watched.error()));
  if (in_zone) {
    if (auto added = AddToZone(*tenant, std::move(pair->second)); !added) return Fail(std::move(added.error()));
  } else if (auto sent = zygote_.Send(MessageType::kSpawn, spawn, pair->second.get()); !sent) {
    return Fail(std::move(sent.error()));
  }
  ++next_id_;
  Tenant& added = *tenants_.emplace(spawn.tenant, std::move(tenant)).first->second;
  return added.id;
}

Result<> Fleet::AddToZone(Tenant& tenant, Channel theirs) {
  if (!zone_command_) return Fail(Error::Unsupported("start zone", "no runtime was found"));
  if (tenant.spawn.image >= options_.images.size()) {
    return Fail(Error::InvalidArgument("start zone", fmt::format("image {}", tenant.spawn.image)));
  }
  std::vector<std::string> inner = {options_.tenant_program.string(), "single", std::to_string(theirs.get()),
                                    DiskArgument(options_.disk)};
  for (const auto& image : options_.images) inner.push_back(image.string());
  auto command = zone_command_(inner, theirs.get());
  if (!command) return Fail(std::move(command.error()));
  const std::string program = command->front();
  auto pid = StartWithSocket(program, {command->begin() + 1, command->end()}, theirs.get(), options_.disk);
  if (!pid) return Fail(std::move(pid.error()));
  tenant.zone_pid = *pid;
  ++zones_;
  return tenant.channel.Send(MessageType::kSpawn, tenant.spawn);
}

void Fleet::BeginLife(Tenant& tenant) {
  tenant.phase = Phase::kStarting;
  if (place_) {
    if (auto placed = place_(tenant); !placed) {
      tenant.log.push_back(placed.error().ToString());
      Signal(tenant.id, SIGKILL);
      return;
    }
  }
  (void)tenant.channel.Send(MessageType::kStart);  // a process that is gone already is reported as ended
}

void Fleet::Poll(std::chrono::nanoseconds limit, const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + limit;
  std::array<epoll_event, kMaxEvents> events;
  for (;;) {
    if (done && done()) return;
    const auto left =
        std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(end - std::chrono::steady_clock::now()));
    auto wait = std::chrono::ceil<std::chrono::milliseconds>(left);
    if (zones_ != 0) wait = std::min<std::chrono::milliseconds>(wait, kZonePoll);
    const int count = ::epoll_wait(epoll_.get(), events.data(), kMaxEvents, static_cast<int>(wait.count()));
    for (int i = 0; i < count; ++i) {
      const std::uint64_t tag = events[static_cast<std::size_t>(i)].data.u64;
      if (tag == kZygoteTag) {
        HandleZygote();
      } else {
        HandleTenant(tag);
      }
    }
    LookAfterZones();
    if (count < 0 && errno == EINTR) return;  // a signal: the caller decides what it means
    if (std::chrono::steady_clock::now() >= end) return;
  }
}

void Fleet::HandleZygote() {
  for (;;) {
    auto received = zygote_.Receive(*message_);
    if (received && *received == Channel::Outcome::kNothing) return;
    if (!received || *received == Channel::Outcome::kClosed) {
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, zygote_.get(), nullptr);
      int status = 0;
      const bool reaped = ::waitpid(zygote_pid_, &status, 0) == zygote_pid_;
      zygote_end_ = fmt::format("the zygote has ended: {}", received ? (reaped ? DescribeStatus(status) : "no status")
                                                                     : received.error().ToString());
      zygote_.Close();
      // Its tenants die with it; nobody is left to tell how.
      for (auto& [id, tenant] : tenants_) {
        if (!tenant->in_zone && tenant->phase != Phase::kEnded) OnEnded(*tenant, SIGKILL, 0);
      }
      return;
    }
    if (message_->type() == MessageType::kSpawned) OnSpawned(message_->As<tenants::Spawned>());
    if (message_->type() == MessageType::kEnded) {
      const auto ended = message_->As<tenants::Ended>();
      const auto found = tenants_.find(ended.tenant);
      if (found != tenants_.end()) OnEnded(*found->second, ended.wait_status, ended.max_resident_bytes);
    }
  }
}

void Fleet::OnSpawned(const tenants::Spawned& spawned) {
  const auto found = tenants_.find(spawned.tenant);
  if (found == tenants_.end()) return;
  Tenant& tenant = *found->second;
  tenant.pid = spawned.pid;
  if (spawned.pid < 0) {
    tenants::Fault fault = {};
    fault.fault_class = tenants::FaultClass::kHostResource;
    fault.error_number = spawned.error_number;
    fmt::format_to_n(fault.cause, sizeof(fault.cause) - 1, "fork: {}", ::strerror(spawned.error_number));
    tenant.fault = fault;
    tenant.fault_ns = vmm::MonotonicNs();
    tenant.phase = Phase::kEnded;
    tenant.ended_ns = vmm::MonotonicNs();
    return;
  }
  if (tenant.spawn.starts_itself != 0) {
    // Its own message may have come before the zygote's.
    tenant.phase = tenant.ready_ns != 0 ? Phase::kReady : Phase::kStarting;
  } else {
    BeginLife(tenant);
  }
}

void Fleet::HandleTenant(TenantId id) {
  const auto found = tenants_.find(id);
  if (found == tenants_.end()) return;
  Drain(*found->second);
}

void Fleet::Drain(Tenant& tenant) {
  if (!tenant.channel.valid()) return;
  for (;;) {
    auto received = tenant.channel.Receive(*message_);
    if (received && *received == Channel::Outcome::kNothing) return;
    if (!received || *received == Channel::Outcome::kClosed) {
      if (!received && tenant.lie.empty()) tenant.lie = received.error().ToString();
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, tenant.channel.get(), nullptr);
      tenant.channel.Close();
      if (!tenant.lie.empty()) Signal(tenant.id, SIGKILL);
      return;
    }
    HandleMessage(tenant, *message_);
  }
}

void Fleet::HandleMessage(Tenant& tenant, tenants::ReceivedMessage& message) {
  tenant.last_sign_ns = vmm::MonotonicNs();
  switch (message.type()) {
    case MessageType::kReady:
      if (tenant.phase == Phase::kSpawning && tenant.spawn.starts_itself == 0) return;
      if (tenant.phase >= Phase::kReady || tenant.ready_ns != 0) return;
      tenant.ready = message.As<tenants::Ready>();
      tenant.statistics = message.TakeDescriptor();
      tenant.ready_ns = tenant.last_sign_ns;
      if (tenant.phase == Phase::kStarting) tenant.phase = Phase::kReady;  // else OnSpawned() says so
      return;
    case MessageType::kHeartbeat:
      tenant.heartbeat = message.As<tenants::Heartbeat>();
      return;
    case MessageType::kWindow:
      if (tenant.windows.size() < kMaxWindows) tenant.windows.push_back(message.As<tenants::Window>());
      return;
    case MessageType::kHistogram: {
      const auto part = message.As<tenants::HistogramPart>();
      for (std::uint32_t i = 0; i < part.count; ++i) {
        if (tenant.histogram.AddBucket(part.entries[i].index, part.entries[i].count)) continue;
        tenant.lie = fmt::format("histogram: bucket {} does not exist", part.entries[i].index);
        Signal(tenant.id, SIGKILL);
        return;
      }
      return;
    }
    case MessageType::kTotals:
      tenant.totals = message.As<tenants::Totals>();
      return;
    case MessageType::kFault:
      tenant.fault = message.As<tenants::Fault>();
      tenant.fault_ns = tenant.last_sign_ns;
      return;
    case MessageType::kLoadRefused:
      tenant.refused = message.As<tenants::Fault>();
      return;
    case MessageType::kLog: {
      const auto line = message.As<tenants::Log>();
      tenant.log.push_back(
          fmt::format("{}.{:09} {}", line.at_ns / 1'000'000'000, line.at_ns % 1'000'000'000, line.text));
      if (tenant.log.size() > kMaxLogLines) tenant.log.pop_front();
      return;
    }
    default:
      tenant.lie = fmt::format("a tenant does not send `{}`", ToString(message.type()));
      Signal(tenant.id, SIGKILL);
  }
}

void Fleet::OnEnded(Tenant& tenant, int wait_status, std::uint64_t max_resident_bytes) {
  if (tenant.phase == Phase::kEnded) return;
  Drain(tenant);  // its last words may still lie in the socket
  tenant.phase = Phase::kEnded;
  tenant.ended_ns = vmm::MonotonicNs();
  tenant.wait_status = wait_status;
  tenant.max_resident_bytes = max_resident_bytes;
  if (tenant.channel.valid()) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, tenant.channel.get(), nullptr);
    tenant.channel.Close();
  }
  tenant.statistics.Reset();
}

void Fleet::LookAfterZones() {
  if (zones_ == 0) return;
  for (auto& [id, tenant] : tenants_) {
    if (tenant->zone_pid < 0 || tenant->phase == Phase::kEnded) continue;
    if (tenant->phase == Phase::kSpawning) {
      // The runtime starts the zone's first process, and that the tenant.
      const auto first = FirstChild(tenant->zone_pid);
      if (const auto inside = first ? FirstChild(*first) : std::nullopt) {
        tenant->pid = *inside;
        BeginLife(*tenant);
      }
    }
    int status = 0;
    if (::waitpid(tenant->zone_pid, &status, WNOHANG) != tenant->zone_pid) continue;
    --zones_;
    // The runtime passes the end of what it ran on as a shell does: 128 + signal.
    if (WIFEXITED(status) && WEXITSTATUS(status) > 128) status = WEXITSTATUS(status) - 128;
    OnEnded(*tenant, status, 0);
  }
}

bool Fleet::WaitReady(const std::vector<TenantId>& ids, std::chrono::nanoseconds limit) {
  const auto is_settled = [this](TenantId id) {
    const Phase phase = Get(id).phase;
    return phase == Phase::kReady || phase == Phase::kEnded;
  };
  std::size_t settled = 0;  // those before it are
  const auto done = [&] {
    while (settled < ids.size() && is_settled(ids[settled])) ++settled;
    return settled == ids.size();
  };
  Poll(limit, done);
  return done();
}

bool Fleet::SetLoad(TenantId id, const Load& load) {
  Tenant& tenant = Get(id);
  return tenant.phase == Phase::kReady && tenant.channel.valid() &&
         tenants::SendRaw(tenant.channel.get(), MessageType::kSetLoad, &load, sizeof(load));
}

bool Fleet::Inject(TenantId id, std::uint32_t fault, std::uint64_t seed) {
  Tenant& tenant = Get(id);
  const tenants::Inject inject = {.fault = fault, .reserved = 0, .seed = seed};
  return tenant.phase == Phase::kReady && tenant.channel.valid() &&
         tenants::SendRaw(tenant.channel.get(), MessageType::kInject, &inject, sizeof(inject));
}

bool Fleet::Signal(TenantId id, int signal) const {
  const Tenant& tenant = Get(id);
  // Not after its end: the number may be another's by then. A zone that is not up yet is its runtime.
  const pid_t pid = tenant.pid > 0 ? tenant.pid : tenant.zone_pid;
  return tenant.phase != Phase::kEnded && pid > 0 && ::kill(pid, signal) == 0;
}

bool Fleet::Report(const std::vector<TenantId>& ids, bool reset, bool verify, std::chrono::nanoseconds limit) {
  const tenants::ReportRequest request = {.reset = reset ? 1U : 0U, .verify = verify ? 1U : 0U};
  for (const TenantId id : ids) {
    Tenant& tenant = Get(id);
    tenant.totals.reset();
    tenant.histogram.Clear();
    if (tenant.phase == Phase::kReady && tenant.channel.valid()) {
      tenants::SendRaw(tenant.channel.get(), MessageType::kReport, &request, sizeof(request));
    }
  }
  const auto done = [&] {
    return std::ranges::all_of(ids, [this](TenantId id) {
      const Tenant& tenant = Get(id);
      return tenant.totals.has_value() || tenant.phase != Phase::kReady;
    });
  };
  Poll(limit, done);
  return std::ranges::all_of(ids, [this](TenantId id) { return Get(id).totals.has_value(); });
}

Result<std::chrono::nanoseconds> Fleet::Kill(const std::vector<TenantId>& ids, std::chrono::nanoseconds limit) {
  const auto begin = std::chrono::steady_clock::now();
  for (const TenantId id : ids) Signal(id, SIGKILL);
  std::size_t gone = 0;
  const auto done = [&] {
    while (gone < ids.size() && Get(ids[gone]).phase == Phase::kEnded) ++gone;
    return gone == ids.size();
  };
  // A signal to this program cuts a Poll() short, but not this.
  while (!done() && std::chrono::steady_clock::now() - begin < limit) {
    Poll(limit - (std::chrono::steady_clock::now() - begin), done);
  }
  if (!done()) return Fail(Error::TimedOut("end tenants", fmt::format("{} are still there", ids.size() - gone)));
  return std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin);
}

void Fleet::Forget(TenantId id) {
  const auto found = tenants_.find(id);
  if (found != tenants_.end() && found->second->phase == Phase::kEnded) tenants_.erase(found);
}

std::vector<TenantId> Fleet::Ids() const {
  std::vector<TenantId> ids;
  for (const auto& [id, tenant] : tenants_) ids.push_back(id);
  return ids;
}

void Fleet::Shutdown() {
  if (!zygote_.valid() && zones_ == 0) return;
  std::vector<TenantId> alive;
  for (const auto& [id, tenant] : tenants_) {
    if (tenant->phase != Phase::kEnded) alive.push_back(id);
  }
  (void)Kill(alive, kShutdownLimit);  // what does not die now dies with the zygote, or is the kernel's
  if (!zygote_.valid()) return;
  zygote_.Close();
  const auto end = std::chrono::steady_clock::now() + kShutdownLimit;
  int status = 0;
  while (::waitpid(zygote_pid_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= end) ::kill(zygote_pid_, SIGKILL);
    ::usleep(500);
  }
  zygote_end_ = "the fleet was shut down";
}

}  // namespace nestbench::tenancy
