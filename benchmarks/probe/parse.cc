#include "parse.h"

#include <string>

namespace nestbench::probe {

Result<CpuInfo> ParseCpuInfo(std::string_view text) {
  CpuInfo cpu;
  for (const std::string_view line : SplitLines(text)) {
    if (Trim(line).empty()) {
      if (!cpu.vendor.empty()) break;  // end of the first processor
      continue;
    }
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view key = Trim(line.substr(0, colon));
    const std::string_view value = Trim(line.substr(colon + 1));
    const auto number = [value] { return static_cast<std::uint32_t>(ParseUnsigned(value).value_or(0)); };
    if (key == "vendor_id") cpu.vendor = value;
    if (key == "model name") cpu.model_name = value;
    if (key == "cpu family") cpu.family = number();
    if (key == "model") cpu.model = number();
    if (key == "stepping") cpu.stepping = number();
    if (key == "microcode") cpu.microcode = value;
    if (key == "flags") {
      for (const std::string_view flag : SplitWords(value)) cpu.flags.emplace_back(flag);
    }
  }
  if (cpu.vendor.empty()) return vmm::Fail(Error::Malformed("/proc/cpuinfo", "no vendor_id: not an x86 processor"));
  return cpu;
}

std::string BracketedWord(std::string_view text) {
  const auto open = text.find('[');
  const auto close = text.find(']', open == std::string_view::npos ? 0 : open);
  if (open == std::string_view::npos || close == std::string_view::npos) return {};
  return std::string(text.substr(open + 1, close - open - 1));
}

std::optional<std::uint32_t> CountCpuList(std::string_view text) {
  constexpr std::uint64_t kMaxCpus = 1 << 20;
  std::uint64_t count = 0;
  for (const std::string_view range : Split(Trim(text), ',')) {
    const auto dash = range.find('-');
    const auto first = ParseUnsigned(range.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : ParseUnsigned(range.substr(dash + 1));
    if (!first || !last || *last < *first || *last >= kMaxCpus) return std::nullopt;
    count += *last - *first + 1;
  }
  return static_cast<std::uint32_t>(count);
}

std::optional<std::uint64_t> ParseEffectiveCapabilities(std::string_view status) {
  for (const std::string_view line : SplitLines(status)) {
    if (line.starts_with("CapEff:")) return ParseUnsigned(Trim(line.substr(7)), 16);
  }
  return std::nullopt;
}

}  // namespace nestbench::probe
