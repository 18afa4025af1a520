// The digest by which images are told apart. Source: FIPS 180-4, "Secure Hash Standard".
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "nestbench/vmm/base/error.h"

namespace nestbench::vmm {

// SHA-256 of `bytes` as 64 lower-case hexadecimal digits. kUnsupported when the host's OpenSSL is set up without
// SHA-256. Any thread.
[[nodiscard]] Result<std::string> Sha256Hex(std::span<const std::byte> bytes);

}  // namespace nestbench::vmm
