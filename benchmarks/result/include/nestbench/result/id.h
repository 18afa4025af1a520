// The id of a measurement: `scenario/workload[/key=value[,key=value...]]/substrate`, keys sorted.
//
// Names (scenario, workload, substrate, keys) are made of [a-z0-9_-] and start with [a-z]; values of [A-Za-z0-9_.+-].
// So an id is a safe file name part, needs no quoting in a shell, and can be taken apart again without doubt.
#pragma once

#include <string>
#include <string_view>

#include "nestbench/result/types.h"

namespace nestbench::result {

struct IdParts {
  std::string scenario;
  std::string workload;
  Params params;  // a value that is a canonical decimal integer comes back as one
  std::string substrate;

  bool operator==(const IdParts&) const = default;
};

// kInvalidArgument when a part breaks the grammar; the message names the part.
Result<std::string> MakeId(const IdParts& parts);
Result<std::string> MakeId(std::string_view scenario, std::string_view workload, const Params& params,
                           std::string_view substrate);

// kMalformed when `id` does not follow the grammar, unsorted and repeated keys included.
Result<IdParts> ParseId(std::string_view id);

// The id without its substrate, by which `vm` is paired with `bare`: "overhead/cpu_integer".
Result<std::string> PairingKey(std::string_view id);

}  // namespace nestbench::result
