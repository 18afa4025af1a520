#include "nestbench/tenancy/zone.h"

#include <fmt/format.h>

#include <boost/process/args.hpp>
#include <boost/process/child.hpp>
#include <boost/process/exe.hpp>
#include <boost/process/io.hpp>
#include <boost/process/search_path.hpp>
#include <istream>
#include <system_error>
#include <utility>

namespace nestbench::tenancy {
namespace {

namespace process = boost::process;
using vmm::Error;
using vmm::Fail;

// Runs a program to its end. Its exit code and what it said, standard error included.
std::pair<int, std::string> Run(const std::vector<std::string>& command) {
  process::ipstream output;
  std::error_code error;
  process::child child(process::exe = command.front(),
                       process::args = std::vector<std::string>(command.begin() + 1, command.end()),
                       process::std_in<process::null, (process::std_out & process::std_err)> output, error);
  if (error) return {-1, error.message()};
  std::string text;
  for (std::string line; std::getline(output, line);) text += (text.empty() ? "" : "; ") + line;
  child.wait(error);
  return {child.exit_code(), text};
}

}  // namespace

vmm::Result<ZoneRuntime> ZoneRuntime::Find() {
  const auto program = process::search_path("bwrap");
  if (program.empty()) {
    return Fail(Error::Unsupported("start a zone", "bwrap is not in PATH; install the package bubblewrap"));
  }
  auto [version_code, version] = Run({program.string(), "--version"});
  ZoneRuntime runtime(program.string(), std::move(version));
  const auto [code, said] = Run(runtime.Command({"/bin/true"}));
  if (version_code != 0 || code != 0) {
    return Fail(Error::Unsupported(
        "start a zone",
        fmt::format("{} ended with {}: {}; it needs user namespaces (sysctl kernel.unprivileged_userns_clone "
                    "or user.max_user_namespaces) or root",
                    program.string(), code, said)));
  }
  return runtime;
}

std::vector<std::string> ZoneRuntime::Command(const std::vector<std::string>& command) const {
  std::vector<std::string> all = {program_,
                                  "--unshare-all",
                                  "--unshare-user",
                                  "--die-with-parent",
                                  "--new-session",
                                  "--cap-drop",
                                  "ALL",
                                  "--ro-bind",
                                  "/",
                                  "/",
                                  "--dev",
                                  "/dev",
                                  "--proc",
                                  "/proc",
                                  "--"};
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

}  // namespace nestbench::tenancy
