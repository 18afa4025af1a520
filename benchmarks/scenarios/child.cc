#include "nestbench/scenarios/child.h"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/process/args.hpp>
#include <boost/process/async.hpp>
#include <boost/process/child.hpp>
#include <boost/process/exe.hpp>
#include <boost/process/extend.hpp>
#include <boost/process/io.hpp>
#include <cerrno>
#include <functional>
#include <system_error>
#include <utility>

namespace nestbench::scenarios {
namespace {

namespace asio = boost::asio;
namespace process = boost::process;

constexpr std::size_t kMaxOutputBytes = 64ULL << 20;
constexpr std::size_t kMaxErrorBytes = 16ULL << 10;
constexpr std::chrono::milliseconds kPollInterval{20};  // how soon a stop request is seen

// Set by a signal handler, which can reach nothing but a global.
volatile sig_atomic_t g_stop_signal = 0;

void OnStop(int signal) { g_stop_signal = signal; }

// Reads a pipe to its end; keeps the first or the last `limit` bytes and throws the rest away, so that a child that
// floods us neither blocks nor fills our memory.
class Drain {
 public:
  Drain(process::async_pipe& pipe, std::size_t limit, bool keep_last)
      : pipe_(pipe), limit_(limit), keep_last_(keep_last) {}

  void Start() {
    pipe_.async_read_some(asio::buffer(buffer_), [this](const boost::system::error_code& error, std::size_t bytes) {
      if (error) {
        ended_ = true;
        return;
      }
      Keep(bytes);
      Start();
    });
  }

  [[nodiscard]] bool ended() const { return ended_; }
  std::string Take() { return std::move(text_); }

 private:
  void Keep(std::size_t bytes) {
    if (!keep_last_) bytes = std::min(bytes, limit_ - std::min(limit_, text_.size()));
    text_.append(buffer_.data(), bytes);
    if (keep_last_ && text_.size() > limit_) text_.erase(0, text_.size() - limit_);
  }

  process::async_pipe& pipe_;
  std::size_t limit_;
  bool keep_last_;
  bool ended_ = false;
  std::array<char, 65536> buffer_{};
  std::string text_;
};

std::string LastLine(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  const std::size_t line = text.find_last_of('\n');
  return line == std::string::npos ? text : text.substr(line + 1);
}

}  // namespace

std::string ChildOutcome::Describe() const {
  std::string text;
  if (timed_out) {
    text = "ended after its deadline";
  } else if (interrupted) {
    text = "ended on request";
  } else if (signal != 0) {
    text = fmt::format("killed by signal {} ({})", signal, ::strsignal(signal));
  } else {
    text = fmt::format("exit code {}", exit_code);
  }
  const std::string last = LastLine(error_text);
  return last.empty() ? text : fmt::format("{}; it said: {}", text, last);
}

int StopSignal() { return g_stop_signal; }

Result<void> InstallStopHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnStop;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (::sigaction(signal, &action, nullptr) != 0) return Fail(Error::System("sigaction", errno));
  }
  // A reader of our output that goes away is an error of write(2), not our end.
  ::signal(SIGPIPE, SIG_IGN);
  return {};
}

Result<ChildOutcome> RunChild(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                              const std::string& input, std::chrono::nanoseconds limit) {
  asio::io_context context;
  process::async_pipe input_pipe(context);
  process::async_pipe output_pipe(context);
  process::async_pipe error_pipe(context);
  std::error_code started;
  const pid_t parent = ::getpid();
  // Between fork and exec: only async-signal-safe calls. The child leaves the terminal's Ctrl-C to us, ends with us,
  // and inherits nothing but its three pipes. (Boost.Process 1.74's limit_handles closes standard output as well;
  // before Linux 5.11 the call fails, and what is inherited is what our own parent left open.)
  const auto before_exec = [parent](auto& /*executor*/) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::signal(SIGINT, SIG_IGN);
    ::signal(SIGHUP, SIG_IGN);
    ::signal(SIGPIPE, SIG_DFL);
    ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  };
  process::child child(process::exe = program.string(), process::args = arguments,
                       process::std_in<input_pipe, process::std_out> output_pipe, process::std_err > error_pipe,
                       process::extend::on_exec_setup = before_exec, started);
  if (started) return Fail(Error::System("start", started.value(), program.string()));

  Drain output(output_pipe, kMaxOutputBytes, false);
  Drain error_text(error_pipe, kMaxErrorBytes, true);
  output.Start();
  error_text.Start();
  // A child that ends without reading its input is no error of ours: its exit code tells.
  asio::async_write(input_pipe, asio::buffer(input), [&input_pipe](const boost::system::error_code&, std::size_t) {
    boost::system::error_code ignored;
    input_pipe.close(ignored);
  });

  ChildOutcome outcome;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  const auto kill = [&child](bool& why) {
    why = true;
    ::kill(child.id(), SIGKILL);
  };
  while (!(output.ended() && error_text.ended())) {
    context.restart();
    context.run_one_for(kPollInterval);
    const bool ended_by_us = outcome.timed_out || outcome.interrupted;
    if (!ended_by_us && StopSignal() != 0) kill(outcome.interrupted);
    if (!ended_by_us && std::chrono::steady_clock::now() >= deadline) kill(outcome.timed_out);
  }
  // Its pipes are closed: it has ended, or it runs on without them, which the deadline ends as well.
  int status = 0;
  while (::waitpid(child.id(), &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= deadline && !outcome.timed_out) kill(outcome.timed_out);
    ::usleep(1000);
  }
  child.detach();
  if (!outcome.timed_out && !outcome.interrupted) {
    if (WIFSIGNALED(status)) {
      outcome.signal = WTERMSIG(status);
    } else {
      outcome.exit_code = WEXITSTATUS(status);
    }
  }
  outcome.output = output.Take();
  outcome.error_text = error_text.Take();
  return outcome;
}

}  // namespace nestbench::scenarios
