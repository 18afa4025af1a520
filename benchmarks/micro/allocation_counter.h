// Counts every allocation of this process: malloc and its relatives, and with them operator new. Test code only.
#pragma once

#include <cstdint>

namespace nestbench::micro {

// So far, of all threads.
std::uint64_t AllocationCount();

}  // namespace nestbench::micro
