#include "iperf3.h"

#include <fmt/format.h>

#include <boost/process/search_path.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nestbench/payload/datagram.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/substrates/net_namespaces.h"

namespace nestbench::scenarios {
namespace {

using nlohmann::json;
using payload::Station;
using vmm::Error;

std::string AddressOf(Station station) {
  const std::uint32_t address = payload::Ipv4Of(station);
  return fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 0xFF, address >> 8 & 0xFF, address & 0xFF);
}

// Once the server listens. It is started at the same time, so the first tries may come too early; the client then says
// so with exit code 0 or 1.
vmm::Result<double> RunClient(const std::filesystem::path& iperf3, const std::vector<std::string>& arguments,
                              std::chrono::steady_clock::time_point end) {
  constexpr std::chrono::milliseconds kPause{50};
  const auto last_try = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  for (;;) {
    auto client = RunChild(iperf3, arguments, "", end - std::chrono::steady_clock::now());
    if (!client) return Fail(std::move(client.error()));
    if (client->exit_code < 0) return Fail(Error::Malformed("iperf3", client->Describe()));
    auto rate = ParseIperf3(client->output);
    if (rate || std::chrono::steady_clock::now() >= last_try) return rate;
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

vmm::Result<std::filesystem::path> FindIperf3() {
  const auto found = boost::process::search_path("iperf3");
  if (found.empty()) {
    return Fail(
        Error::Unsupported("use iperf3 as a reference", "it is not installed; as root: apt-get install iperf3"));
  }
  return std::filesystem::path(found.string());
}

vmm::Result<double> RunIperf3(const std::filesystem::path& iperf3, const NetLoad& load, int cpu, int peer_cpu,
                              std::chrono::seconds run_time) {
  const auto limit = run_time + std::chrono::seconds(15);
  const auto end = std::chrono::steady_clock::now() + limit;
  const std::vector<std::string> client = {
      "--client",   AddressOf(Station::kPeer),
      "--udp",      "--bitrate=0",
      "--json",     fmt::format("--length={}", load.frame_bytes - payload::kDatagramHeaderBytes),
      "--time",     fmt::format("{}", run_time.count()),
      "--affinity", fmt::format("{}", cpu)};
  const std::vector<std::string> server = {
      "--server", "--one-off", "--bind", AddressOf(Station::kPeer), "--affinity", fmt::format("{}", peer_cpu)};
  vmm::Result<double> result = 0.0;
  // A namespace is a thread's: this one's own stays as it is.
  std::thread([&] {
    auto namespaces = substrates::MakeVethNamespaces();
    if (!namespaces) {
      result = Fail(std::move(namespaces.error()));
      return;
    }
    std::thread serving([&] {
      // What keeps it from serving is seen by the client, which then gives up.
      if (substrates::EnterNamespace(namespaces->peer)) {
        (void)RunChild(iperf3, server, "", end - std::chrono::steady_clock::now());
      }
    });
    result = RunClient(iperf3, client, end);
    serving.join();
  }).join();
  return result;
}

vmm::Result<double> ParseIperf3(std::string_view text) {
  const json document = json::parse(text, nullptr, false);
  const auto number = [&document](const char* pointer) {
    const json::json_pointer at(pointer);
    if (document.is_discarded() || !document.contains(at) || !document.at(at).is_number()) return -1.0;
    return document.at(at).get<double>();
  };
  const double bytes = number("/end/sum_received/bytes");
  const double seconds = number("/end/sum_received/seconds");
  if (bytes <= 0 || seconds <= 0) {
    const auto error = document.is_object() ? document.find("error") : document.end();
    const bool says_why = document.is_object() && error != document.end() && error->is_string();
    return Fail(Error::Malformed("iperf3's output", says_why ? error->get<std::string>() : "it says not what arrived"));
  }
  return bytes / seconds;
}

}  // namespace nestbench::scenarios
