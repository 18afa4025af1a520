#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/probe/probe.h"
#include "parse.h"

namespace nestbench::probe {
namespace {

constexpr std::size_t kColumns = 80;
constexpr std::size_t kLabelColumns = 16;

enum class Tone { kPlain, kGood, kWarning, kBad };

// Lines of "label  text", wrapped at kColumns between words, with colours or without.
class Writer {
 public:
  explicit Writer(bool colour) : colour_(colour) {}

  void Section(std::string_view title) {
    if (!text_.empty()) text_ += '\n';
    text_ += colour_ ? fmt::format("\x1b[1m{}\x1b[0m\n", title) : fmt::format("{}\n", title);
  }

  void Line(std::string_view label, std::string_view text, Tone tone = Tone::kPlain) {
    std::string lead = fmt::format("  {:<{}}", label, kLabelColumns - 2);
    std::string line;
    const auto flush = [&] {
      text_ += lead + Paint(line, tone) + "\n";
      lead.assign(kLabelColumns, ' ');
      line.clear();
    };
    for (const std::string_view word : SplitWords(text)) {
      if (!line.empty() && lead.size() + line.size() + 1 + word.size() > kColumns) flush();
      if (!line.empty()) line += ' ';
      line += Printable(word);
    }
    flush();
  }

  template <typename T>
  bool Failed(std::string_view label, const Result<T>& item) {
    if (!item) Line(label, fmt::format("unknown: {}", item.error().ToString()), Tone::kWarning);
    return !item;
  }

  std::string Take() { return std::move(text_); }

 private:
  [[nodiscard]] std::string Paint(const std::string& text, Tone tone) const {
    if (!colour_ || tone == Tone::kPlain || text.empty()) return text;
    return fmt::format("\x1b[{}m{}\x1b[0m", tone == Tone::kGood ? 32 : tone == Tone::kWarning ? 33 : 31, text);
  }

  // Firmware and kernel strings are printed to a terminal: no control characters from them.
  static std::string Printable(std::string_view word) {
    std::string text(word);
    std::ranges::replace_if(
        text, [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
    return text;
  }

  bool colour_;
  std::string text_;
};

std::string Size(std::uint64_t bytes) {
  if (bytes >= 10ULL << 30) return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 0x1p30);
  return fmt::format("{} MiB", bytes >> 20);
}

std::string LimitText(const Limit& limit) {
  const auto value = [](const std::optional<std::uint64_t>& v) { return v ? fmt::format("{}", *v) : "unlimited"; };
  return limit.soft == limit.hard ? value(limit.soft)
                                  : fmt::format("{} (at most {})", value(limit.soft), value(limit.hard));
}

void WriteHost(Writer& out, const HostReport& report) {
  out.Section("Host");
  if (!out.Failed("cpu", report.cpu)) {
    out.Line("cpu", fmt::format("{}, {} family {} model {} stepping {}, microcode {}", report.cpu->model_name,
                                report.cpu->vendor, report.cpu->family, report.cpu->model, report.cpu->stepping,
                                report.cpu->microcode.empty() ? "not shown" : report.cpu->microcode));
  }
  if (!out.Failed("topology", report.topology)) {
    const Topology& t = *report.topology;
    out.Line("topology", fmt::format("CPUs {} ({} usable here), cores {}, sockets {}, NUMA nodes {}, memory {}", t.cpus,
                                     t.usable_cpus, t.cores, t.sockets, t.numa_nodes, Size(t.memory_bytes)));
  }
  out.Line("kernel", report.kernel);
  if (!out.Failed("command line", report.cmdline)) out.Line("command line", *report.cmdline);
  if (!out.Failed("mitigations", report.mitigations)) {
    std::vector<std::string> active;
    for (const auto& [name, text] : *report.mitigations) {
      if (text != "Not affected") active.push_back(fmt::format("{}: {}", name, text));
    }
    out.Line("mitigations", active.empty() ? "none needed" : fmt::format("{}", fmt::join(active, "; ")));
  }
  if (!out.Failed("clock", report.clock)) {
    const ClockInfo& c = *report.clock;
    out.Line("clock",
             fmt::format("{} (of {}); TSC {:.3f} GHz, {}", c.source, fmt::join(c.available, ", "),
                         static_cast<double>(c.tsc_hz) / 1e9, c.tsc_invariant ? "invariant" : "NOT invariant"));
    if (c.is_emulated) {
      out.Line("", fmt::format("EMULATED: {}; times mean nothing here", c.emulated_reason), Tone::kBad);
    }
  }
  if (!out.Failed("huge pages", report.huge_pages)) {
    const HugePages& h = *report.huge_pages;
    out.Line("huge pages",
             fmt::format("THP {}; hugetlb 2 MiB {} of {} free, 1 GiB {} of {} free", h.thp.empty() ? "absent" : h.thp,
                         h.hugetlb_2m_free, h.hugetlb_2m_total, h.hugetlb_1g_free, h.hugetlb_1g_total));
  }
}

void WriteLevel(Writer& out, const HostReport& report) {
  out.Section("Level");
  std::string value = report.level.value;
  if (value == "L0") value += " (bare metal)";
  if (value == "L1") value += " (a guest)";
  if (value == "L1+") value += " (a guest; how deep cannot be told from inside)";
  out.Line("level", report.level.value == "unknown"
                        ? value
                        : fmt::format("{}, confidence {:.1f} %", value, report.level.confidence * 100));
  for (std::size_t i = 0; i < report.level.evidence.size(); ++i) {
    out.Line(i == 0 ? "evidence" : "", fmt::format("- {}", report.level.evidence[i]));
  }
}

void WriteExecution(Writer& out, std::string_view label, const Execution& execution) {
  if (execution.mode == "unknown") {
    out.Line(label, fmt::format("unknown: {}", execution.reason), Tone::kWarning);
    return;
  }
  std::string text = fmt::format("{}: {:.2f} ns per instruction, host {:.2f} ns", execution.mode,
                                 execution.guest_ns_per_instruction, execution.host_ns_per_instruction);
  if (execution.emulations_per_instruction) {
    text += fmt::format("; KVM emulated {:.2f} of each", *execution.emulations_per_instruction);
  }
  out.Line(label, text, execution.mode == "native" ? Tone::kGood : Tone::kWarning);
}

void WriteKvm(Writer& out, const KvmInfo& kvm) {
  out.Section("KVM");
  if (!kvm.available) {
    out.Line("available", fmt::format("no: {}", kvm.reason), Tone::kBad);
    if (!kvm.remedy.empty()) out.Line("to change that", kvm.remedy);
    return;
  }
  out.Line("available",
           fmt::format("yes, API version {}, module {}", kvm.api_version, kvm.module.empty() ? "built in" : kvm.module),
           Tone::kGood);
  WriteExecution(out, "guest CPL3", kvm.user);
  WriteExecution(out, "guest CPL0", kvm.supervisor);
  out.Line("nested", fmt::format("{}: {}", kvm.nested ? "yes" : "no", kvm.nested_reason));
  if (!kvm.parameters.empty()) {
    std::vector<std::string> parameters;
    for (const auto& [name, value] : kvm.parameters) parameters.push_back(fmt::format("{}={}", name, value));
    out.Line("parameters", fmt::format("{}", fmt::join(parameters, " ")));
  }
  std::vector<std::string> present;
  std::vector<std::string> absent;
  for (const auto& [name, value] : kvm.capabilities) {
    const std::string shown = name.substr(std::string_view("KVM_CAP_").size());
    if (value == 0) {
      absent.push_back(shown);
    } else {
      present.push_back(value == 1 ? shown : fmt::format("{}={}", shown, value));
    }
  }
  out.Line("capabilities", fmt::format("{}", fmt::join(present, " ")));
  out.Line("absent", fmt::format("{}", fmt::join(absent, " ")));
}

void WriteRights(Writer& out, const HostReport& report) {
  out.Section("Rights");
  if (!out.Failed("user", report.rights)) {
    const Rights& r = *report.rights;
    out.Line("user", fmt::format("id {}; {}", r.user_id,
                                 r.capabilities.empty() ? "no capability that matters here"
                                                        : fmt::format("{}", fmt::join(r.capabilities, " "))));
    std::vector<std::string> limits;
    for (const auto& [name, limit] : r.limits) limits.push_back(fmt::format("{} {}", name, LimitText(limit)));
    out.Line("limits", fmt::format("{}", fmt::join(limits, ", ")));
    out.Line("perf events", r.perf_hardware ? "hardware counters work" : fmt::format("no: {}", r.perf_reason));
  }
  if (!out.Failed("cgroups", report.cgroup)) {
    const CgroupInfo& c = *report.cgroup;
    out.Line("cgroups", fmt::format("{}, {}; controllers: {}", c.layout,
                                    c.writable ? "writable" : fmt::format("not writable ({})", c.reason),
                                    c.controllers.empty() ? "none" : fmt::format("{}", fmt::join(c.controllers, " "))));
  }
  std::vector<std::string> found;
  std::vector<std::string> missing;
  for (const auto& [name, path] : report.tools) (path.empty() ? missing : found).push_back(name);
  out.Line("tools", found.empty() ? "none" : fmt::format("{}", fmt::join(found, " ")));
  if (!missing.empty()) out.Line("tools missing", fmt::format("{}", fmt::join(missing, " ")));
}

void WriteCapability(Writer& out, const HostReport& report) {
  out.Section("What can run here");
  std::vector<std::string> scenarios;
  for (const result::Capability& entry : report.capability) {
    if (std::ranges::find(scenarios, entry.scenario) == scenarios.end()) scenarios.push_back(entry.scenario);
  }
  for (const std::string& scenario : scenarios) {
    std::vector<std::string> runnable;
    for (const result::Capability& entry : report.capability) {
      if (entry.scenario == scenario && entry.runnable) runnable.push_back(entry.workload);
    }
    if (!runnable.empty()) out.Line(scenario, fmt::format("{}", fmt::join(runnable, " ")), Tone::kGood);
    // Workloads that fail for one reason are told together.
    std::vector<std::string> told;
    for (const result::Capability& entry : report.capability) {
      if (entry.scenario != scenario || entry.runnable || std::ranges::find(told, entry.reason) != told.end()) continue;
      told.push_back(entry.reason);
      std::vector<std::string> names;
      for (const result::Capability& other : report.capability) {
        if (other.scenario == scenario && other.reason == entry.reason) names.push_back(other.workload);
      }
      out.Line(told.size() == 1 && runnable.empty() ? scenario : "",
               fmt::format("not {}: {}", fmt::join(names, " "), entry.reason), Tone::kBad);
      if (!entry.remedy.empty()) out.Line("", fmt::format("to change that: {}", entry.remedy));
    }
  }
}

}  // namespace

std::string ToText(const HostReport& report, bool colour) {
  Writer out(colour);
  WriteHost(out, report);
  WriteLevel(out, report);
  WriteKvm(out, report.kvm);
  WriteRights(out, report);
  WriteCapability(out, report);
  out.Section("Findings");
  if (report.findings.empty()) out.Line("", "none");
  for (const result::Finding& finding : report.findings) {
    const Tone tone = finding.severity == result::Severity::kError     ? Tone::kBad
                      : finding.severity == result::Severity::kWarning ? Tone::kWarning
                                                                       : Tone::kPlain;
    out.Line(ToString(finding.severity), fmt::format("{} ({})", finding.text, finding.evidence), tone);
  }
  return out.Take();
}

}  // namespace nestbench::probe
