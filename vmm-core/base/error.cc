#include "nestbench/vmm/base/error.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {

std::string Error::ToString() const {
  std::string text = operation;
  if (kind == ErrorKind::kSystem) {
    if (!detail.empty()) text += fmt::format(" ({})", detail);
    text += fmt::format(": {} (errno {})", std::generic_category().message(error_number), error_number);
  } else if (!detail.empty()) {
    text += fmt::format(": {}", detail);
  }
  return text;
}

Error Error::System(std::string_view operation, int error_number, std::string detail) {
  return {ErrorKind::kSystem, Mutated("errno-lost") ? 0 : error_number, std::string(operation), std::move(detail)};
}

Error Error::InvalidArgument(std::string_view operation, std::string detail) {
  return {ErrorKind::kInvalidArgument, 0, std::string(operation), std::move(detail)};
}

Error Error::Unsupported(std::string_view operation, std::string detail) {
  return {ErrorKind::kUnsupported, 0, std::string(operation), std::move(detail)};
}

Error Error::Malformed(std::string_view operation, std::string detail) {
  return {ErrorKind::kMalformed, 0, std::string(operation), std::move(detail)};
}

Error Error::TimedOut(std::string_view operation, std::string detail) {
  return {ErrorKind::kTimedOut, 0, std::string(operation), std::move(detail)};
}

}  // namespace nestbench::vmm
