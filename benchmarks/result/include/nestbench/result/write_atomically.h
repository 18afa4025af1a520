// Writes a whole file so that a reader sees the old content or the new one, never a part, also after a power cut.
#pragma once

#include <filesystem>
#include <string_view>

#include "nestbench/result/types.h"

namespace nestbench::result {

// Writes `bytes` to an unpredictable temporary name in the folder of `path`, syncs it, renames it to `path` and syncs
// the folder. Replaces an existing file; a symbolic link at `path` is replaced, not followed. On failure the temporary
// file is removed and `path` is as it was. Mode 0666 less the umask. Errors: kSystem, with the path and what to do.
Result<> WriteAtomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace nestbench::result
