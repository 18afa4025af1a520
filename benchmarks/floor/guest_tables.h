// The tables of a RawUserVm, written to host memory that stands behind the supervisor area. Private to the floor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::floor {

inline constexpr std::uint64_t kGdtBase = 0x1000;
inline constexpr std::uint64_t kGdtBytes = 7 * 8;
inline constexpr std::uint64_t kIdtBase = 0x2000;
inline constexpr std::uint64_t kIdtBytes = 32 * 16;
inline constexpr std::uint64_t kStubsBase = 0x3000;
inline constexpr std::uint64_t kTssBase = 0x4000;
inline constexpr std::uint64_t kTssLimit = 0x68 + 65536 / 8;
inline constexpr std::uint64_t kTssPagesBytes = 0x3000;
inline constexpr std::uint64_t kKernelStackBase = 0x8000;
inline constexpr std::uint64_t kKernelStackBytes = 0x8000;
inline constexpr std::uint64_t kFaultStackBase = 0x10000;
inline constexpr std::uint64_t kFaultStackBytes = 0x2000;
inline constexpr std::uint64_t kPageTablesBase = 0x2'0000;

inline constexpr std::uint16_t kUserDataSelector = 0x1B;
inline constexpr std::uint16_t kUserCodeSelector = 0x23;
inline constexpr std::uint16_t kTssSelector = 0x28;

// GDT, IDT, stubs, TSS with its I/O permission bitmap, and the mappings of the supervisor, the mailbox, the stack and
// the MMIO pages; MapUser adds the image. 4 KiB pages throughout.
class GuestTables {
 public:
  explicit GuestTables(std::byte* supervisor) : supervisor_(supervisor) {}
  void Write();
  void MapUser(std::uint64_t start, std::uint64_t size_bytes, bool writable, bool executable);

 private:
  void WriteTss();
  void Map(std::uint64_t start, std::uint64_t size_bytes, std::uint64_t flags);
  [[nodiscard]] std::uint64_t* Table(std::uint64_t address) {
    return reinterpret_cast<std::uint64_t*>(supervisor_ + address);
  }

  std::byte* supervisor_;
  std::uint64_t next_table_ = kPageTablesBase + 0x1000;
};

}  // namespace nestbench::floor
