// nestbench-guest: one guest, or one bare process, in a process of its own. Reads one request from standard input,
// measures, writes one answer to standard output. Started by nestbench; not meant to be typed.
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>

#include "confine.h"
#include "nestbench/substrates/measure.h"
#include "nestbench/vmm/digest/sha256.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::substrates {
namespace {

Answer AnswerOf(const Error& error) {
  Answer answer;
  answer.status = error.kind == vmm::ErrorKind::kUnsupported ? AnswerStatus::kUnsupported : AnswerStatus::kError;
  answer.reason = error.ToString();
  return answer;
}

Result<void> PinTo(int cpu) {
  if (cpu < 0) return {};
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
    return Fail(Error::System("sched_setaffinity", errno, fmt::format("CPU {}", cpu)));
  }
  return {};
}

Answer Serve(const std::string& line) {
  auto request = ParseRequest(line);
  if (!request) return AnswerOf(request.error());
  if (auto pinned = PinTo(request->cpu); !pinned) return AnswerOf(pinned.error());
  const bool has_disk = request->disk.kind != DiskKind::kNone;
  if (auto limited = LimitFileSize(has_disk ? request->disk.size_bytes : 0); !limited) return AnswerOf(limited.error());
  auto image = vmm::LoadedFile::Read(request->image, vmm::kMaxImageFileBytes);
  if (!image) return AnswerOf(image.error());
  auto digest = vmm::Sha256Hex(image->bytes());
  if (!digest) return AnswerOf(digest.error());

  SubstrateOptions options;
  options.image = image->bytes();
  options.arena_bytes = request->arena_bytes;
  options.host_page_bytes = request->host_page_bytes;
  options.guest_page_bytes = request->guest_page_bytes;
  options.doorbell = request->doorbell;
  if (request->substrate == SubstrateKind::kNested) options.nested_paging = true;
  if (request->substrate == SubstrateKind::kNestedShadow) options.nested_paging = false;
  options.disk = request->disk;
  const bool is_bare = request->substrate == SubstrateKind::kBare;
  options.network = request->network;
  const bool has_network = request->network.peer != NetPeer::kNone;
  const auto create = has_network ? (is_bare ? CreateNetTwin : CreateNetVm)
                      : !is_bare  ? CreateVm
                      : has_disk  ? CreateDiskTwin
                                  : CreateBare;
  auto substrate = create(options);
  Answer answer;
  if (!substrate) {
    answer = AnswerOf(substrate.error());
    // What is wrong inside the image: the loader has only its bytes.
    if (substrate.error().kind == vmm::ErrorKind::kMalformed) {
      answer.reason = fmt::format("{}: {}", request->image, answer.reason);
    }
  } else if (auto filtered = FilterSystemCalls({.devices = has_disk || has_network, .sockets = has_network});
             !filtered) {
    answer = AnswerOf(filtered.error());
  } else {
    answer = Measure(**substrate, *request);
  }
  answer.image_sha256 = *digest;
  return answer;
}

int Main() {
  if (auto confined = Confine(); !confined) {
    fmt::print(stderr, "nestbench-guest: {}\n", confined.error().ToString());
    return 1;
  }
  std::string line;
  if (!std::getline(std::cin, line)) {
    fmt::print(stderr,
               "nestbench-guest is started by nestbench and reads a request from standard input; run nestbench\n");
    return 2;
  }
  const std::string text = ToJson(Serve(line)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t got = ::write(STDOUT_FILENO, text.data() + written, text.size() - written);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 1;
    written += static_cast<std::size_t>(got);
  }
  return 0;
}

}  // namespace
}  // namespace nestbench::substrates

int main() { return nestbench::substrates::Main(); }
