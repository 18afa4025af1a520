// nestbench: the command line.
#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <exception>
#include <string>
#include <system_error>
#include <vector>

#include "boot_command.h"
#include "exit_codes.h"
#include "nestbench/probe/probe.h"
#include "nestbench/result/recover.h"
#include "nestbench/scenarios/profile.h"
#include "python.h"
#include "run_command.h"
#include "version.h"
#include "watch_command.h"

namespace nestbench::program {
namespace {

struct PythonCommand {
  const char* name;
  const char* summary;
};

// Commands of the report package: everything behind the name is passed on as it is, --help included.
constexpr std::array kPythonCommands = {
    PythonCommand{"report", "write the HTML page of a result document"},
    PythonCommand{"checklist", "the conditions of a conformance run: feature, status, evidence, source"},
    PythonCommand{"summary", "print the tables of a result document"},
    PythonCommand{"compare", "compare two result documents: regression, improvement, equivalent, inconclusive"},
    PythonCommand{"gate", "judge a result document by a policy; JUnit; exit code"},
    PythonCommand{"validate", "check a result document against its schema"},
};

constexpr const char* kExitCodes =
    "Exit codes: 0 pass; 1 regression, failed limit or test; 2 usage; 3 inconclusive; 4 these times cannot be judged;\n"
    "5 unsupported here (what can run has run); 6 something broke (disk full, a crashed child); 128+n ended by signal "
    "n.";

std::string Footer(const std::string& examples) { return "\nExamples:\n" + examples + "\n" + kExitCodes; }

int ProbeCommand(bool as_json) {
  const probe::HostReport report = probe::Probe();
  if (as_json) {
    fmt::print("{}\n", probe::ToProbeJson(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{}", probe::ToText(report, ::isatty(STDOUT_FILENO) == 1));
  }
  return kExitPass;
}

int RecoverCommand(const std::string& folder, bool replace) {
  auto recovered = result::Recover(folder, replace);
  if (!recovered) {
    spdlog::error("{}", recovered.error().ToString());
    return recovered.error().kind == vmm::ErrorKind::kSystem && recovered.error().error_number == ENOSPC ? kExitBroke
                                                                                                         : kExitUsage;
  }
  if (!recovered->dropped.empty()) spdlog::warn("the last line of the journal was dropped: {}", recovered->dropped);
  fmt::print("{}: {} records\n", recovered->path.string(), recovered->records);
  return kExitPass;
}

void AddRunOptions(CLI::App& command, RunRequest& request) {
  command.add_option("--filter", request.filter, "regular expression (ECMAScript) searched in the measurement ids");
  command.add_option("--rounds", request.rounds, "rounds instead of the profile's own number");
  command.add_option("--seed", request.seed, "of the order and of all random data; drawn and recorded when not given");
  command.add_option("--out", request.out,
                     "folder of the result (new or empty of results); default: results/<time>-<id>");
  command.add_flag("--json-only", request.json_only, "only the result document; its path on standard output");
}

void AddTenantOptions(CLI::App& command, RunRequest& request) {
  constexpr const char* kDensity = "Density";
  constexpr const char* kContainment = "Containment";
  command.add_option("--guests,--max", request.density.guests, "with --idle: exactly so many; else at most so many")
      ->check(CLI::Range(1, 100'000))
      ->group(kDensity);
  command.add_flag("--idle", request.density.idle, "only start idle guests, measure and end")->group(kDensity);
  command
      .add_option("--budget-memory", request.density.budget_memory_bytes,
                  "confine the whole experiment to so much memory (512M, 4G): exhaustion without risk to the host")
      ->transform(CLI::AsSizeValue(false))
      ->group(kDensity);
  command
      .add_option("--budget-cpus", request.density.budget_cpus, "confine it to so much CPU time (1.5: one and a half)")
      ->check(CLI::Range(0.01, 4096.0))
      ->group(kDensity);
  command
      .add_option_function<double>(
          "--slo-p99",
          [&request](double milliseconds) {
            request.density.slo_p99_ns = static_cast<std::uint64_t>(milliseconds * 1e6);
          },
          "objective: 99 of 100 requests of 1 ms are answered within so many ms (default 10)")
      ->check(CLI::Range(0.01, 1e6))
      ->group(kDensity);
  command
      .add_option("--schedules", request.schedules, "hidden schedules of attribution, instead of the profile's number")
      ->check(CLI::Range(0, 100'000))
      ->group("Isolation");
  command.add_option("--tries", request.containment.tries, "of each fault, instead of the profile's own number")
      ->check(CLI::Range(1, 10'000))
      ->group(kContainment);
  command
      .add_option("--soak", request.containment.soak_s,
                  "random faults among many guests for so many seconds, after everything else")
      ->check(CLI::Range(1, 1'000'000))
      ->group(kContainment);
}

void AddBootOptions(CLI::App& command, BootRequest& request) {
  command.add_option("--kernel", request.kernel, "bzImage, or vmlinux with a PVH entry")->required();
  command.add_option("--initrd", request.initramfs, "initramfs");
  command.add_option("--disk", request.disks, "FILE[,direct][,ro]: a file or block device, as often as wanted");
  command.add_option("--ram-disk", request.ram_disks, "a disk of so much memory (64M, 1G)")
      ->transform(CLI::AsSizeValue(false));
  command.add_option("--net", request.nets, "tap:NAME, or switch: cards of one guest on a wire; as often as wanted");
  command.add_option("--cpus", request.vcpus, "vCPUs (default 1)")->check(CLI::Range(1, 64));
  command.add_option("--memory", request.memory_bytes, "of the guest (default 512M)")
      ->transform(CLI::AsSizeValue(false));
  command.add_option("--append", request.append, "more for the kernel's command line");
  command.add_option("--timeline", request.timeline, "write there when the console said what (lines of JSON)");
  command.add_option("--timeout", request.timeout_s, "seconds; then the guest is ended")->check(CLI::Range(0.1, 1e7));
  command.add_flag("--balloon", request.balloon, "with a balloon device");
  constexpr const char* kPaths = "Ways of the devices, to be measured against each other";
  command.add_flag("--exit-doorbells", request.exit_doorbells, "doorbells as exits, not as ioeventfds")->group(kPaths);
  command.add_flag("--ioctl-interrupts", request.ioctl_interrupts, "interrupts by ioctl, not by irqfd")->group(kPaths);
  command.add_option("--poll", request.poll_us, "microseconds that a device's thread asks before it sleeps")
      ->check(CLI::Range(0.0, 1e9))
      ->group(kPaths);
}

// "2/4": the second of four.
bool ParseShard(std::string_view text, scenarios::ConformanceOptions& options) {
  constexpr std::uint32_t kMostShards = 1000;
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return false;
  const auto number = [](std::string_view digits) -> std::uint32_t {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size() ? value : 0;
  };
  const std::uint32_t part = number(text.substr(0, slash));
  options.shards = number(text.substr(slash + 1));
  options.shard = part - 1;
  return part >= 1 && options.shards >= part && options.shards <= kMostShards;
}

int Main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("nestbench"));
  spdlog::set_pattern("nestbench: %^%v%$");

  // Before CLI11, which would take the options of these commands for its own.
  if (argc >= 2) {
    const std::string command = argv[1];
    const auto named = [&command](const PythonCommand& python) { return command == python.name; };
    if (std::ranges::any_of(kPythonCommands, named)) {
      auto installation = scenarios::Installation::Find();
      if (!installation) {
        spdlog::error("{}", installation.error().ToString());
        return kExitBroke;
      }
      return BecomePython(*installation, {argv + 1, argv + argc});
    }
  }

  CLI::App app("nestbench: what a virtual machine costs on this host, measured.", "nestbench");
  app.set_version_flag("--version", VersionText());
  app.require_subcommand(1);
  app.footer(
      Footer("  nestbench quick                         everything in a minute, with report and verdict\n"
             "  nestbench probe                         what this host is and what can run on it\n"
             "  nestbench run overhead --profile standard --out DIR\n"
             "  nestbench compare before.json after.json\n"));

  RunRequest request;
  request.arguments.assign(argv, argv + argc);

  auto* quick = app.add_subcommand("quick", "measure the quick profile, write the report, print the verdict");
  quick->footer(Footer("  nestbench quick\n  nestbench quick --out my-run\n"));
  AddRunOptions(*quick, request);

  std::string scenario = "all";
  auto* run = app.add_subcommand("run", "measure scenarios and write the result document and the report");
  std::vector<std::string> scenario_names(kScenarioNames.begin(), kScenarioNames.end());
  scenario_names.emplace_back(kCosts);
  scenario_names.emplace_back(kLinux);
  scenario_names.emplace_back("all");
  run->add_option("scenario", scenario, fmt::format("{}", fmt::join(scenario_names, ", ")))
      ->check(CLI::IsMember(scenario_names));
  run->add_option("--profile", request.profile, "quick (a minute), standard (ten minutes) or full");
  run->footer(
      Footer("  nestbench run overhead --profile standard\n"
             "  nestbench run all --filter 'cpu_' --rounds 10 --seed 1 --out DIR\n"
             "  nestbench run exits --json-only\n"
             "  nestbench run io --profile standard --reference fio,iperf3\n"
             "  nestbench run density --guests 2000 --idle\n"
             "  nestbench run linux --kernel vmlinuz --initrd initramfs\n"
             "  nestbench run density --budget-memory 1G --budget-cpus 1.5\n"
             "  nestbench run containment --tries 20 --profile standard\n"));
  AddRunOptions(*run, request);
  AddTenantOptions(*run, request);
  std::vector<std::string> references;
  run->add_option("--reference", references,
                  "of io: the numbers of fio or iperf3 beside ours, or of both (fio,iperf3); Debian packages")
      ->delimiter(',')
      ->check(CLI::IsMember({"fio", "iperf3"}));
  run->add_option("--kernel", request.linux_guest.kernel, "of the guest, as for nestbench boot")->group("Linux");
  run->add_option("--initrd", request.linux_guest.initramfs, "of the guest, made by ./nestbench linux-guest")
      ->group("Linux");

  bool ids_only = false;
  std::string list_profile = "full";
  auto* list = app.add_subcommand("list", "list what can be measured: ids, units, what each is");
  list->add_option("--profile", list_profile, "only what this profile includes: quick, standard or full");
  list->add_option("--filter", request.filter, "regular expression searched in the ids");
  list->add_flag("--ids", ids_only, "only the ids");
  list->footer(Footer("  nestbench list --profile quick\n  nestbench list --filter memory_ --ids\n"));

  bool as_json = false;
  auto* probe =
      app.add_subcommand("probe", "what this host is, what can run here, else why not and what would change it");
  probe->add_flag("--json", as_json, "as one JSON object");
  probe->footer(Footer("  nestbench probe\n  nestbench probe --json | jq .host.level\n"));

  bool list_conditions = false;
  std::string shard = "1/1";
  auto* conform =
      app.add_subcommand("conform", "does KVM behave as documented: each condition in a process of its own");
  conform->add_flag("--list", list_conditions, "list the conditions and where each is documented");
  conform->add_option("--shard", shard, "i/n: only the i-th of n parts");
  conform->add_option("--junit", request.junit, "write the outcomes there, as JUnit XML");
  conform->add_option("--filter", request.filter, "regular expression (ECMAScript) searched in the ids");
  conform->add_option("--out", request.out, "folder of the result (new or empty of results)");
  conform->add_flag("--json-only", request.json_only, "only the result document; its path on standard output");
  conform->footer(
      Footer("  nestbench conform\n  nestbench conform --filter MemorySlots --junit slots.xml\n"
             "  nestbench conform --shard 1/4 --json-only\n  nestbench conform --list\n"));

  std::string folder;
  bool replace = false;
  auto* recover = app.add_subcommand("recover", "make the result document of a run that was killed");
  recover->add_option("folder", folder, "out folder of that run")->required();
  recover->add_flag("--replace", replace, "also when the folder holds a result.json already");
  recover->footer(Footer("  nestbench recover results/20260131T120000Z-1a2b3c\n"));

  BootRequest booted;
  auto* boot = app.add_subcommand("boot", "boot a Linux kernel, its console on this terminal (Ctrl-A x ends it)");
  AddBootOptions(*boot, booted);
  boot->footer(
      Footer("  nestbench boot --kernel bzImage --initrd initramfs.cpio --cpus 2 --memory 1G\n"
             "  nestbench boot --kernel bzImage --disk root.img,direct --net tap:tap0 --append 'root=/dev/vda'\n"));

  WatchRequest watched;
  double watch_s = 0;
  auto* watch =
      app.add_subcommand("watch", "name the noisy neighbour among guests that are running (QEMU, Firecracker, ...)");
  watch->add_option("--pid", watched.pids, "VMM processes to watch; default: every one with a KVM virtual machine")
      ->check(CLI::PositiveNumber);
  watch
      ->add_option_function<int>(
          "--interval", [&watched](int ms) { watched.interval = std::chrono::milliseconds(ms); },
          "milliseconds between two looks (default 250)")
      ->check(CLI::Range(20, 60'000));
  watch->add_option("--duration", watch_s, "seconds; default: until Ctrl-C")->check(CLI::Range(0.1, 1e7));
  watch->add_flag("--json", watched.as_json, "one JSON object on a line for each detection");
  watch->footer(Footer("  nestbench watch --duration 60\n  nestbench watch --pid 1234 --pid 1250 --json\n"));

  for (const PythonCommand& command : kPythonCommands) app.add_subcommand(command.name, command.summary);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    const auto used = app.get_subcommands();
    spdlog::error("{}; `nestbench {}--help` shows what there is", error.what(),
                  used.empty() ? "" : used.front()->get_name() + " ");
    return kExitUsage;
  }
  if (quick->parsed()) {
    request.scenarios.assign(kScenarioNames.begin(), kScenarioNames.end());
    request.taste = true;
    request.judge = true;
    return Run(request);
  }
  if (run->parsed()) {
    request.io.fio = std::ranges::find(references, "fio") != references.end();
    request.io.iperf3 = std::ranges::find(references, "iperf3") != references.end();
    request.scenarios = {scenario};
    if (scenario == "all") request.scenarios.assign(kScenarioNames.begin(), kScenarioNames.end());
    return Run(request);
  }
  if (conform->parsed()) {
    if (!ParseShard(shard, request.conformance)) {
      spdlog::error("--shard `{}`: i/n, with i from 1 to n and n at most 1000", shard);
      return kExitUsage;
    }
    if (list_conditions) return ListConditions(request.filter);
    request.scenarios = {kConformance};
    return Run(request);
  }
  if (list->parsed()) return List(list_profile, request.filter, ids_only);
  if (watch->parsed()) {
    watched.duration = std::chrono::milliseconds(static_cast<std::int64_t>(watch_s * 1000));
    return Watch(watched);
  }
  if (boot->parsed()) return Boot(booted);
  if (probe->parsed()) return ProbeCommand(as_json);
  return RecoverCommand(folder, replace);
}

}  // namespace
}  // namespace nestbench::program

int main(int argc, char** argv) {
  try {
    return nestbench::program::Main(argc, argv);
  } catch (const std::system_error& error) {
    // {fmt} throws it when standard output is full or closed; standard error may be as well.
    std::fputs(("nestbench: " + std::string(error.what()) + "\n").c_str(), stderr);
    return nestbench::program::kExitBroke;
  } catch (const std::exception& error) {
    // Memory is exhausted, or a library threw what it never should.
    std::fputs(("nestbench: internal error: " + std::string(error.what()) + "\n").c_str(), stderr);
    return nestbench::program::kExitBroke;
  }
}
