#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "host_probe.h"

namespace nestbench::probe {
namespace {

// Permission bits do not tell (delegation, read-only mounts, namespaces): only making a group does.
Result<> TryChild(const std::string& folder) {
  std::uint32_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) number = static_cast<std::uint32_t>(::getpid());
  const std::string child = fmt::format("{}/nestbench-probe-{:08x}", folder, number);
  if (::mkdir(child.c_str(), 0755) != 0) return vmm::Fail(Error::System(fmt::format("mkdir {}", child), errno));
  if (::rmdir(child.c_str()) != 0) return vmm::Fail(Error::System(fmt::format("rmdir {}", child), errno));
  return {};
}

void AddOnce(std::vector<std::string>& names, std::string name) {
  if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
}

}  // namespace

Result<CgroupInfo> ProbeCgroups(const SystemFiles& files) {
  auto mounts = files.Read("/proc/self/mountinfo");
  if (!mounts) return vmm::Fail(std::move(mounts.error()));
  auto memberships = files.Read("/proc/self/cgroup");
  if (!memberships) return vmm::Fail(std::move(memberships.error()));
  const CgroupView view = FindCgroups(ParseMountInfo(*mounts), ParseSelfCgroup(*memberships));

  CgroupInfo info;
  info.layout = view.layout;
  if (view.hierarchies.empty()) {
    info.reason = "no cgroup hierarchy with this process in it is mounted";
    return info;
  }
  // Every hierarchy that would be used has to take a child: a v2 that has no controllers (hybrid layouts) is of no use
  // by itself, so it only counts where it is all there is.
  std::vector<std::string> refused;
  for (const CgroupHierarchy& hierarchy : view.hierarchies) {
    std::vector<std::string> controllers = hierarchy.controllers;
    if (hierarchy.is_v2) {
      const std::string text = files.ReadTrimmedOrEmpty(hierarchy.folder + "/cgroup.controllers");
      for (const std::string_view name : SplitWords(text)) controllers.emplace_back(name);
    }
    for (std::string& name : controllers) AddOnce(info.controllers, name);
    const bool is_used = hierarchy.is_v2 ? !controllers.empty() || view.layout == "v2"
                                         : std::ranges::any_of(controllers, [](const std::string& name) {
                                             return name == "cpu" || name == "memory" || name == "pids";
                                           });
    if (!is_used) continue;
    if (auto child = TryChild(hierarchy.folder); !child) refused.push_back(child.error().ToString());
  }
  std::ranges::sort(info.controllers);
  info.writable = refused.empty();
  if (!refused.empty()) info.reason = refused.front();
  return info;
}

}  // namespace nestbench::probe
