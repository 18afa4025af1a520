#include "nestbench/tenancy/process_accounting.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>

#include "nestbench/system_files/text.h"

namespace nestbench::tenancy {
namespace {

using system_files::ParseUnsigned;
using system_files::SplitLines;
using system_files::SplitWords;
using system_files::SystemFiles;
using system_files::Trim;
using vmm::Error;
using vmm::Fail;

constexpr std::uint64_t kNsPerS = 1'000'000'000;

// "running waiting slices": the second, in ns.
std::uint64_t WaitOf(const std::string& schedstat) {
  const std::vector<std::string_view> words = SplitWords(schedstat);
  return words.size() < 2 ? 0 : ParseUnsigned(words[1]).value_or(0);
}

// "VmPTE:      44 kB" and "voluntary_ctxt_switches:\t1": the number.
std::uint64_t StatusNumber(std::string_view status, std::string_view key) {
  for (const std::string_view line : SplitLines(status)) {
    if (!line.starts_with(key) || line.substr(key.size(), 1) != ":") continue;
    std::string_view value = Trim(line.substr(key.size() + 1));
    if (value.ends_with(" kB")) return ParseUnsigned(Trim(value.substr(0, value.size() - 3))).value_or(0) << 10;
    return ParseUnsigned(value).value_or(0);
  }
  return 0;
}

std::uint64_t CpuTimeNs(pid_t pid) {
  clockid_t clock = {};
  timespec time = {};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) return 0;
  return static_cast<std::uint64_t>(time.tv_sec) * kNsPerS + static_cast<std::uint64_t>(time.tv_nsec);
}

struct StatLine {
  char state = '?';
  std::uint64_t minor_faults = 0;
  std::uint64_t major_faults = 0;
  std::uint32_t threads = 0;
};

// "pid (name) state ppid ...": the name may hold blanks and brackets, so that what follows begins after the last one.
std::optional<StatLine> ParseStat(std::string_view text) {
  const auto name_end = text.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  const std::vector<std::string_view> fields = SplitWords(text.substr(name_end + 1));
  constexpr std::size_t kMinorFaults = 7;  // counted from `state`
  constexpr std::size_t kMajorFaults = 9;
  constexpr std::size_t kThreads = 17;
  if (fields.size() <= kThreads || fields[0].size() != 1) return std::nullopt;
  return StatLine{.state = fields[0][0],
                  .minor_faults = ParseUnsigned(fields[kMinorFaults]).value_or(0),
                  .major_faults = ParseUnsigned(fields[kMajorFaults]).value_or(0),
                  .threads = static_cast<std::uint32_t>(ParseUnsigned(fields[kThreads]).value_or(0))};
}

// "7f0000000000-7f0000400000 rw-p ...": the header of a mapping in smaps.
std::optional<AddressRange> ParseMappingHeader(std::string_view line) {
  const auto blank = line.find(' ');
  const std::string_view range = line.substr(0, blank);
  const auto dash = range.find('-');
  if (blank == std::string_view::npos || dash == std::string_view::npos) return std::nullopt;
  const auto begin = ParseUnsigned(range.substr(0, dash), 16);
  const auto end = ParseUnsigned(range.substr(dash + 1), 16);
  if (!begin || !end || *end < *begin) return std::nullopt;
  return AddressRange{*begin, *end - *begin};
}

std::uint64_t Overlap(const AddressRange& a, const AddressRange& b) {
  const std::uint64_t begin = std::max(a.start, b.start);
  const std::uint64_t end = std::min(a.start + a.size_bytes, b.start + b.size_bytes);
  return end > begin ? end - begin : 0;
}

std::vector<std::string> ThreadFolders(pid_t pid, const SystemFiles& files) {
  std::vector<std::string> folders;
  const std::string tasks = fmt::format("/proc/{}/task", pid);
  for (const std::string& thread : files.List(tasks)) folders.push_back(fmt::format("{}/{}", tasks, thread));
  return folders;
}

}  // namespace

vmm::Result<ProcessUsage> ReadProcess(pid_t pid, const SystemFiles& files) {
  const std::string path = fmt::format("/proc/{}/stat", pid);
  const auto text = files.Read(path);
  if (!text) return Fail(text.error());
  const auto stat = ParseStat(*text);
  if (!stat) return Fail(Error::Malformed(path, "not a line of proc(5)"));
  ProcessUsage usage;
  usage.state = stat->state;
  usage.threads = stat->threads;
  usage.minor_faults = stat->minor_faults;
  usage.major_faults = stat->major_faults;
  usage.cpu_ns = CpuTimeNs(pid);
  const std::vector<std::string> folders =
      stat->threads > 1 ? ThreadFolders(pid, files) : std::vector{fmt::format("/proc/{}", pid)};
  for (const std::string& folder : folders) {
    usage.run_queue_wait_ns += WaitOf(files.ReadTrimmedOrEmpty(folder + "/schedstat"));
    const std::string status = files.ReadTrimmedOrEmpty(folder + "/status");
    usage.voluntary_switches += StatusNumber(status, "voluntary_ctxt_switches");
    usage.involuntary_switches += StatusNumber(status, "nonvoluntary_ctxt_switches");
  }
  return usage;
}

std::optional<std::uint64_t> ReadRunQueueWaitNs(pid_t pid, const SystemFiles& files) {
  const std::vector<std::string> folders = ThreadFolders(pid, files);
  if (folders.empty()) return std::nullopt;
  std::uint64_t wait_ns = 0;
  for (const std::string& folder : folders) wait_ns += WaitOf(files.ReadTrimmedOrEmpty(folder + "/schedstat"));
  return wait_ns;
}

vmm::Result<ProcessMemory> ReadProcessMemory(pid_t pid, std::span<const AddressRange> guest_ram,
                                             const SystemFiles& files) {
  const std::string path = fmt::format("/proc/{}/smaps", pid);
  const auto text = files.Read(path);
  if (!text) return Fail(text.error());
  if (text->empty()) return Fail(Error::System("read", ESRCH, path));  // a zombie has no memory
  ProcessMemory memory;
  std::uint64_t in_ranges = 0;  // of the present mapping
  std::uint64_t guest_part = 0;
  std::uint64_t resident = 0;
  for (const std::string_view line : SplitLines(*text)) {
    if (const auto mapping = ParseMappingHeader(line)) {
      in_ranges = 0;
      for (const AddressRange& range : guest_ram) in_ranges += Overlap(*mapping, range);
      guest_part = 0;
      resident = 0;
    } else if (line.starts_with("Rss:")) {
      resident = StatusNumber(line, "Rss");
      guest_part = std::min(resident, in_ranges);
      memory.guest_ram_bytes += guest_part;
    } else if (line.starts_with("Pss:")) {
      const std::uint64_t pss = StatusNumber(line, "Pss");
      // Of a mapping that is guest memory in part, the rest.
      memory.vmm_private_bytes +=
          resident == 0
              ? pss
              : static_cast<std::uint64_t>(static_cast<double>(pss) * static_cast<double>(resident - guest_part) /
                                           static_cast<double>(resident));
    }
  }
  memory.page_tables_bytes = StatusNumber(files.ReadTrimmedOrEmpty(fmt::format("/proc/{}/status", pid)), "VmPTE");
  return memory;
}

std::optional<std::uint64_t> ReadUnusedMemoryBytes(const SystemFiles& files) {
  const auto available = system_files::MeminfoBytes(files.ReadTrimmedOrEmpty("/proc/meminfo"), "MemAvailable");
  if (!available) return std::nullopt;
  const auto pages = system_files::PerCpuListPages(files.ReadTrimmedOrEmpty("/proc/zoneinfo"));
  return *available + pages.value_or(0) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

MemoryAccount MemoryAccount::Begin(SystemFiles files) {
  MemoryAccount account(std::move(files));
  account.unused_bytes_ = ReadUnusedMemoryBytes(account.files_);
  return account;
}

std::optional<MemoryPerGuest> MemoryAccount::PerGuest(std::span<const GuestProcess> guests,
                                                      std::size_t most_sampled) const {
  const auto unused = ReadUnusedMemoryBytes(files_);
  if (guests.empty() || most_sampled == 0 || !unused || !unused_bytes_) return std::nullopt;
  MemoryPerGuest each;
  const std::size_t samples = std::min(most_sampled, guests.size());
  for (std::size_t i = 0; i < samples; ++i) {
    const GuestProcess& guest = guests[i * guests.size() / samples];
    const auto memory = ReadProcessMemory(guest.pid, guest.guest_ram, files_);
    if (!memory) continue;
    each.guest_ram_bytes += static_cast<double>(memory->guest_ram_bytes);
    each.vmm_private_bytes += static_cast<double>(memory->vmm_private_bytes);
    ++each.sampled;
  }
  if (each.sampled == 0) return std::nullopt;
  each.guest_ram_bytes /= static_cast<double>(each.sampled);
  each.vmm_private_bytes /= static_cast<double>(each.sampled);
  const std::uint64_t lost = *unused_bytes_ - std::min(*unused_bytes_, *unused);
  const double seen = each.guest_ram_bytes + each.vmm_private_bytes;
  each.total_bytes = std::max(seen, static_cast<double>(lost) / static_cast<double>(guests.size()));
  each.kernel_bytes = each.total_bytes - seen;
  return each;
}

}  // namespace nestbench::tenancy
