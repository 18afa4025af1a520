#include "python.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "exit_codes.h"

namespace nestbench::program {
namespace {

// The interpreter that Debian's Python packages belong to, whatever else PATH holds.
constexpr const char* kInterpreter = "/usr/bin/python3";

void Exec(const scenarios::Installation& installation, const std::vector<std::string>& arguments) {
  ::setenv("PYTHONPATH", installation.reports.c_str(), 1);
  ::setenv("PYTHONDONTWRITEBYTECODE", "1", 1);  // an installed tree is not ours to write to
  std::vector<char*> argv;
  for (const char* word : {kInterpreter, "-m", "nestbench_reports"}) argv.push_back(const_cast<char*>(word));
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(kInterpreter, argv.data());
}

int Missing() {
  spdlog::error("cannot start {}: {}; install it with: apt-get install python3", kInterpreter, ::strerror(errno));
  return kExitBroke;
}

}  // namespace

int BecomePython(const scenarios::Installation& installation, const std::vector<std::string>& arguments) {
  Exec(installation, arguments);
  return Missing();
}

int CallPython(const scenarios::Installation& installation, const std::vector<std::string>& arguments) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return Missing();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(kExitBroke);
    Exec(installation, arguments);
    ::_exit(Missing());
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return kExitBroke;
  }
  return WIFSIGNALED(status) ? kExitSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace nestbench::program
