// Parsers of what only the probe reads in /proc and /sys; those of all are in system_files. Pure; whatever does not
// parse is left out or empty.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/probe/probe.h"
#include "nestbench/system_files/cgroups.h"
#include "nestbench/system_files/system_files.h"
#include "nestbench/system_files/text.h"

namespace nestbench::probe {

using system_files::CgroupHierarchy;
using system_files::CgroupView;
using system_files::FindCgroups;
using system_files::MeminfoBytes;
using system_files::ParseMountInfo;
using system_files::ParseSelfCgroup;
using system_files::ParseUnsigned;
using system_files::Split;
using system_files::SplitLines;
using system_files::SplitWords;
using system_files::SystemFiles;
using system_files::Trim;

// First processor of /proc/cpuinfo. kMalformed without vendor_id.
Result<CpuInfo> ParseCpuInfo(std::string_view text);

// "always [madvise] never" -> "madvise"; empty when nothing is in brackets.
std::string BracketedWord(std::string_view text);

// "0-3,8,10-11" -> 7. Empty for anything else.
std::optional<std::uint32_t> CountCpuList(std::string_view text);

// Bits of "CapEff:" in /proc/self/status.
std::optional<std::uint64_t> ParseEffectiveCapabilities(std::string_view status);

}  // namespace nestbench::probe
