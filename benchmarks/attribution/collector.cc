#include "nestbench/attribution/collector.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "nestbench/tenancy/process_accounting.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/kvm/stats.h"

namespace nestbench::attribution {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDebugFolder = "/sys/kernel/debug/kvm";

std::optional<pid_t> ParsePid(const std::string& text) {
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (error != std::errc() || end != text.data() + text.size() || pid <= 0) return std::nullopt;
  return pid;
}

// The CPU that a process ran on last: field 39 of /proc/<pid>/stat, counted from behind the name.
int LastCpu(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(file, text)) return -1;
  std::size_t at = text.rfind(") ");
  if (at == std::string::npos) return -1;
  constexpr int kFieldsToCpu = 37;  // from "state", the third, to "processor"
  at += 1;
  for (int i = 0; i < kFieldsToCpu - 1 && at != std::string::npos; ++i) at = text.find(' ', at + 1);
  if (at == std::string::npos) return -1;
  int cpu = -1;
  std::from_chars(text.data() + at + 1, text.data() + text.size(), cpu);
  return cpu;
}

// Folders of debugfs for this process's VMs: "<pid>-<descriptor>".
std::vector<fs::path> DebugFolders(pid_t pid) {
  std::vector<fs::path> folders;
  std::error_code error;
  const std::string prefix = fmt::format("{}-", pid);
  for (fs::directory_iterator it(kDebugFolder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with(prefix)) folders.push_back(it->path());
  }
  return folders;
}

}  // namespace

struct Collector::Guest {
  Watched watched;
  std::optional<vmm::BinaryStats> statistics;
  std::vector<fs::path> folders;
  std::uint64_t cpu_ns = 0;
  std::uint64_t wait_ns = 0;
  std::optional<std::uint64_t> exits;
  bool gone = false;

  [[nodiscard]] std::optional<std::uint64_t> ReadExits() const {
    if (statistics) {
      if (auto count = statistics->Get("exits")) return *count;
      return std::nullopt;
    }
    if (folders.empty()) return std::nullopt;
    std::uint64_t total = 0;
    for (const fs::path& folder : folders) {
      std::ifstream file(folder / "exits");
      std::uint64_t count = 0;
      if (!(file >> count)) return std::nullopt;
      total += count;
    }
    return total;
  }
};

Collector::Collector() : last_ns_(vmm::MonotonicNs()) {}
Collector::~Collector() = default;

std::size_t Collector::size() const {
  return static_cast<std::size_t>(std::ranges::count_if(guests_, [](const auto& guest) { return !guest->gone; }));
}

void Collector::Add(Watched watched) {
  auto guest = std::make_unique<Guest>();
  guest->watched = std::move(watched);
  if (guest->watched.statistics.valid()) {
    if (auto opened = vmm::BinaryStats::Open(std::move(guest->watched.statistics))) {
      guest->statistics.emplace(std::move(*opened));
    }
  } else {
    guest->folders = DebugFolders(guest->watched.pid);
  }
  if (auto usage = tenancy::ReadProcess(guest->watched.pid)) {
    guest->cpu_ns = usage->cpu_ns;
    guest->wait_ns = usage->run_queue_wait_ns;
    guest->exits = guest->ReadExits();
  } else {
    guest->gone = true;
  }
  guests_.push_back(std::move(guest));
}

Window Collector::Take() {
  Window window;
  window.at_ns = vmm::MonotonicNs();
  window.duration_ns = window.at_ns - last_ns_;
  last_ns_ = window.at_ns;
  const auto difference = [](std::uint64_t later, std::uint64_t earlier) { return later - std::min(later, earlier); };
  for (const auto& guest : guests_) {
    if (guest->gone) continue;
    const auto usage = tenancy::ReadProcess(guest->watched.pid);
    if (!usage || usage->state == 'Z') {
      guest->gone = true;
      continue;
    }
    GuestWindow entry;
    entry.guest = guest->watched.guest;
    entry.cpu = LastCpu(guest->watched.pid);
    entry.cpu_ns = difference(usage->cpu_ns, guest->cpu_ns);
    entry.run_queue_wait_ns = difference(usage->run_queue_wait_ns, guest->wait_ns);
    const auto exits = guest->ReadExits();
    if (exits && guest->exits) entry.exits = difference(*exits, *guest->exits);
    guest->cpu_ns = usage->cpu_ns;
    guest->wait_ns = usage->run_queue_wait_ns;
    guest->exits = exits;
    window.guests.push_back(entry);
  }
  return window;
}

std::vector<KvmProcess> FindKvmProcesses() {
  std::vector<KvmProcess> found;
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error)) {
    const auto pid = ParsePid(it->path().filename().string());
    if (!pid) continue;
    KvmProcess process{.pid = *pid, .name = {}, .vms = 0};
    std::error_code denied;  // or gone: both mean that it is none of ours
    for (fs::directory_iterator fd(it->path() / "fd", denied), last; !denied && fd != last; fd.increment(denied)) {
      std::error_code unreadable;
      if (fs::read_symlink(fd->path(), unreadable) == "anon_inode:kvm-vm") ++process.vms;
    }
    if (process.vms == 0) continue;
    std::ifstream(it->path() / "comm") >> process.name;
    found.push_back(std::move(process));
  }
  std::ranges::sort(found, {}, &KvmProcess::pid);
  return found;
}

std::string WhyNoExits(pid_t pid) {
  std::error_code error;
  if (!fs::is_directory(kDebugFolder, error)) {
    return fmt::format("{} cannot be read{}; as root: mount -t debugfs none /sys/kernel/debug", kDebugFolder,
                       error ? " (" + error.message() + ")" : "");
  }
  if (DebugFolders(pid).empty()) return fmt::format("KVM has no folder for process {} in {}", pid, kDebugFolder);
  return {};
}

}  // namespace nestbench::attribution
