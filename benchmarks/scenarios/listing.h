// What the programs that `nestbench run` starts say about themselves with --list: one JSON object a line. Private to
// this folder.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "nestbench/scenarios/child.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::scenarios {

// The text at `key`; empty when `value` is no object, has no such key, or holds something else there.
std::string TextAt(const nlohmann::json& value, const char* key);

// Runs `program --list` and gives each line to `take`. kMalformed with the line that is no JSON or that `take` refuses
// by false, kSystem when the program failed; `operation` is what they say was tried. The outcome, for who wants to say
// more.
vmm::Result<ChildOutcome> ForEachListed(const std::filesystem::path& program, std::string_view operation,
                                        const std::function<bool(const nlohmann::json&)>& take);

}  // namespace nestbench::scenarios
