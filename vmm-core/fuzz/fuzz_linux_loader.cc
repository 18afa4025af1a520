// ParseLinux on any bytes: it answers, and what it accepts can be written into a guest's memory and entered.

#include <cstddef>
#include <cstdint>
#include <span>

#include "nestbench/fuzz/require.h"
#include "nestbench/vmm/loader/linux.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench;
  using fuzz::Require;
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  const auto image = vmm::ParseLinux(file);
  if (!image) {
    Require(image.error().kind == vmm::ErrorKind::kMalformed || image.error().kind == vmm::ErrorKind::kUnsupported,
            "a bad file is malformed or of another kind, nothing else");
    return 0;
  }
  constexpr abi::GuestPhysRange kAllowed{abi::GuestPhysAddr(0x10'0000), (1ULL << 30) - 0x10'0000};
  Require(image->range.size_bytes != 0 && kAllowed.Contains(image->range.start, image->range.size_bytes),
          "a kernel lies between the first megabyte and the first gigabyte");
  Require(image->range.Contains(image->entry, 1), "a kernel is entered inside");
  Require(!image->pieces.empty(), "a kernel has something to load");
  for (const auto& piece : image->pieces) {
    Require(image->range.Contains(piece.address, piece.bytes.size()), "every piece lies in the range");
    Require(piece.bytes.empty() || (piece.bytes.data() >= file.data() &&
                                    piece.bytes.data() + piece.bytes.size() <= file.data() + file.size()),
            "a piece's bytes are the file's");
  }
  Require(image->command_line_max_bytes <= 0xFFFF, "a command line has an end");
  return 0;
}
