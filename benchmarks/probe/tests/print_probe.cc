// Prints what `nestbench probe --json` prints, for the test that holds it against the JSON schema.
#include <fmt/format.h>

#include "nestbench/probe/probe.h"
#include "nestbench/result/json.h"

int main() {
  fmt::print("{}\n", nestbench::result::Dump(nestbench::probe::ToProbeJson(nestbench::probe::Probe()), 1));
  return 0;
}
