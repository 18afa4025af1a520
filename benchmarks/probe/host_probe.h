// The parts of the report that come from the kernel's files and from trying: clocks, topology, memory, cgroups, rights.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "nestbench/probe/probe.h"
#include "parse.h"

namespace nestbench::probe {

Result<std::map<std::string, std::string>> ReadMitigations(const SystemFiles& files);
Result<ClockInfo> ReadClockSources(const SystemFiles& files);
Result<Topology> ReadTopology(const SystemFiles& files);
Result<HugePages> ReadHugePages(const SystemFiles& files);
Result<Rights> ReadRights(const SystemFiles& files);

// Finds this process's groups and makes a child in one of them, then removes it.
Result<CgroupInfo> ProbeCgroups(const SystemFiles& files);

// Programs of the trade in the folders of `path_variable` (":" between them): name -> full path, empty when missing.
std::map<std::string, std::string> FindTools(const std::string& path_variable);

std::string KernelText();

}  // namespace nestbench::probe
