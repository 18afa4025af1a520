// From the journal of a run that died to its result document.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "nestbench/result/types.h"

namespace nestbench::result {

struct Recovered {
  nlohmann::json document;
  std::filesystem::path path;  // of the written document; empty from RecoverText
  std::size_t records = 0;     // that went into it
  std::string dropped;         // why the last line was dropped; empty when none was
};

// Builds the document of a journal's text. run.recovered is true, run.interrupted true without an end record. A last
// line that is torn or garbage is dropped (and becomes a finding); anything wrong before it is kMalformed and names
// the line.
Result<Recovered> RecoverText(std::string_view journal);

// Reads `folder`/journal.jsonl and writes `folder`/result.json. Refuses (kInvalidArgument) a folder whose run is still
// alive, and one that holds a result.json already unless `replace`.
Result<Recovered> Recover(const std::filesystem::path& folder, bool replace = false);

}  // namespace nestbench::result
