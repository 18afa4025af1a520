// Which build this is. The values come from the build (version.cc.in).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace nestbench::program {

// "0.1.0 (3f2a9c1b7d44)"
std::string VersionText();

// The object `build` of the result document.
nlohmann::json BuildJson();

}  // namespace nestbench::program
