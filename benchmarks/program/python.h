// The judging half of nestbench is a Python package: this starts it.
#pragma once

#include <string>
#include <vector>

#include "nestbench/scenarios/profile.h"

namespace nestbench::program {

// Replaces this process with `python3 -m nestbench_reports ARGUMENTS...`. Returns an exit code only when that cannot
// be started.
int BecomePython(const scenarios::Installation& installation, const std::vector<std::string>& arguments);

// Runs it as a child that shares our standard streams, and returns its exit code (128 + n when signal n ended it).
int CallPython(const scenarios::Installation& installation, const std::vector<std::string>& arguments);

}  // namespace nestbench::program
