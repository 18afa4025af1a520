// OS-level virtualization: starts a program in namespaces of its own, by bubblewrap.
#pragma once

#include <string>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::tenancy {

class ZoneRuntime {
 public:
  // Looks for bwrap in PATH and starts /bin/true in a zone, as only that tells whether this host permits it.
  // kUnsupported with the cause and what would change it.
  static vmm::Result<ZoneRuntime> Find();

  // The argument list that runs `command` in a zone: user, PID, mount, network, IPC, UTS and cgroup namespaces of its
  // own; the file system read-only and without /dev/kvm; no capability; a session of its own; dies with its parent.
  // Descriptors that are open without close-on-exec stay open.
  [[nodiscard]] std::vector<std::string> Command(const std::vector<std::string>& command) const;

  // "bubblewrap 0.8.0".
  [[nodiscard]] const std::string& version() const { return version_; }

 private:
  ZoneRuntime(std::string program, std::string version) : program_(std::move(program)), version_(std::move(version)) {}
  std::string program_;
  std::string version_;
};

}  // namespace nestbench::tenancy
