// Starts tenants as copies of this process, in which everything that they share is loaded already. Private to the
// tenant's program.
#pragma once

#include "nestbench/tenants/channel.h"
#include "tenant.h"

namespace nestbench::tenants {

// Serves kSpawn messages until the channel closes; reports each start and each end. Returns the exit code.
int ServeAsZygote(const Inheritance& inheritance, const Channel& channel);

}  // namespace nestbench::tenants
