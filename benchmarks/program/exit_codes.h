// What the program's exit code says. The table is in DESIGN.md and README.md, "Exit codes".
#pragma once

namespace nestbench::program {

inline constexpr int kExitPass = 0;
inline constexpr int kExitFailed = 1;        // regression, failed limit, failed test
inline constexpr int kExitUsage = 2;         // flags, files, folders that are not what they must be
inline constexpr int kExitInconclusive = 3;  // policy decides whether it fails
inline constexpr int kExitRefused = 4;       // these documents cannot be compared, or no gate may use these times
inline constexpr int kExitUnsupported = 5;   // something that was asked for cannot run here; what can run has run
inline constexpr int kExitBroke = 6;         // disk full, a crashed child, an internal error
inline constexpr int kExitSignalBase = 128;  // plus the signal that ended the run

}  // namespace nestbench::program
