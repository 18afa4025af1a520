// The scenario `io`: what disks and networks cost through virtio. A guest drives virtio-blk with a payload of ours; its
// twin, a host process, moves the same blocks in the same order through io_uring on the same file. A guest drives
// virtio-net, to the host or to another guest; its twin sends the same datagrams over a veth pair.
//
// A round of a workload is two fresh processes of each side on one CPU, ABBA, as in `overhead`; the threads of the
// devices and the network's peer have other CPUs where there are some. One process gives a round to each metric of its
// workload.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fio.h"
#include "guest_rounds.h"
#include "io_workloads.h"
#include "iperf3.h"
#include "nestbench/result/id.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/describe.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/substrates/protocol.h"
#include "nestbench/vmm/digest/sha256.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "round_budget.h"
#include "scratch_disk.h"

namespace nestbench::scenarios {
namespace {

using substrates::Answer;
using substrates::DiskKind;
using substrates::SubstrateKind;

constexpr std::string_view kScenario = "io";
// A driver that finds nothing looks for so long before it sleeps: longer than a request of a fast disk takes, shorter
// than what a CPU is good for otherwise.
constexpr double kSpinSeconds = 200e-6;
// A frame that is not acknowledged by then counts as lost: long for a machine whose CPUs are taken, too.
constexpr std::uint64_t kResendMs = 100;
constexpr std::uint64_t kGiveUpMs = 5000;

enum class Side : std::uint8_t { kBare, kVm, kFio, kIperf3 };

std::string_view ToString(Side side) {
  switch (side) {
    case Side::kBare:
      return "bare";
    case Side::kVm:
      return "vm";
    case Side::kFio:
      return "fio";
    case Side::kIperf3:
      break;
  }
  return "iperf3";
}

// One side of a workload: a process that gives a round to each of these measurements.
struct Subject {
  Side side = Side::kBare;
  std::vector<std::pair<IoMetric, std::string>> ids;
  bool active = true;
  ProcessTally processes;
  std::uint64_t resent_frames = 0;
};

struct Job {
  IoWorkload workload;
  std::vector<Subject> subjects;
};

std::string IdOf(const IoWorkload& workload, IoMetric metric, Side side) {
  result::Params params = workload.params;
  if (workload.names_metric) params["metric"] = std::string(ToString(metric));
  // The parts are words of this file and io_workloads.cc: always within the grammar.
  return result::MakeId(kScenario, workload.name, params, ToString(side)).value_or(std::string());
}

bool Tells(Side side, const IoWorkload& workload, IoMetric metric) {
  switch (side) {
    case Side::kBare:
      return !workload.guest_only && metric != IoMetric::kExits;
    case Side::kVm:
      return true;
    case Side::kIperf3:
      return workload.network() != nullptr && metric == IoMetric::kBandwidth &&
             workload.network()->operation == payload::NetOperation::kStream;
    case Side::kFio:
      break;
  }
  return workload.disk() != nullptr && !workload.guest_only && metric != IoMetric::kExits && metric != IoMetric::kCpu;
}

std::vector<Job> SelectJobs(const RunContext& context) {
  std::vector<Side> sides = {Side::kBare, Side::kVm};
  if (context.io.fio) sides.push_back(Side::kFio);
  if (context.io.iperf3) sides.push_back(Side::kIperf3);
  std::vector<Job> jobs;
  for (IoWorkload& workload : IoWorkloads()) {
    if (workload.profile > context.profile) continue;
    Job job;
    for (const Side side : sides) {
      Subject subject;
      subject.side = side;
      for (const IoMetric metric : workload.metrics) {
        if (!Tells(side, workload, metric)) continue;
        std::string id = IdOf(workload, metric, side);
        if (context.selects(id)) subject.ids.emplace_back(metric, std::move(id));
      }
      if (!subject.ids.empty()) job.subjects.push_back(std::move(subject));
    }
    job.workload = std::move(workload);
    if (!job.subjects.empty()) jobs.push_back(std::move(job));
  }
  return jobs;
}

// A CPU beside those that are taken; the last of these where there is none.
int ChooseCpuBeside(std::initializer_list<int> taken) {
  const int last = *(taken.end() - 1);
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return last;
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set) && std::ranges::find(taken, cpu) == taken.end()) return cpu;
  }
  return last;
}

std::uint64_t DiskBytes(workloads::Profile profile) {
  constexpr std::uint64_t kMiB = 1ULL << 20;
  switch (profile) {
    case workloads::Profile::kQuick:
      return 64 * kMiB;
    case workloads::Profile::kStandard:
      return 256 * kMiB;
    case workloads::Profile::kFull:
      break;
  }
  return 1024 * kMiB;
}

class IoRun {
 public:
  IoRun(const RunContext& context, result::Journal& journal)
      : context_(context),
        journal_(journal),
        jobs_(SelectJobs(context)),
        random_(context.seed),
        disk_bytes_(DiskBytes(context.profile)),
        io_cpu_(ChooseCpuBeside({context.cpu})),
        peer_cpu_(ChooseCpuBeside({context.cpu, io_cpu_})) {}

  result::Result<void> Run() {
    if (jobs_.empty()) return {};
    if (auto announced = Announce(); !announced) return announced;
    if (auto prepared = PrepareDisks(); !prepared) return prepared;
    std::size_t processes = 0;
    for (const Job& job : jobs_) processes += 2 * ActiveSubjects(job).size();
    Progress progress(std::string(kScenario), processes * context_.effort.rounds, context_.quiet);
    RoundBudget rounds(context_.effort.rounds, context_.effort.io_budget);
    while (rounds.Next()) {
      for (Job& job : jobs_) {
        if (auto done = RunRound(job, rounds.current(), progress); !done) return done;
        if (StopSignal() != 0) return {};
      }
      if (auto synced = journal_.Sync(); !synced) return synced;
    }
    if (auto settled = SettleVoids(); !settled) return settled;
    if (auto told = TellOfLosses(); !told) return told;
    return rounds.Report(journal_, std::string(kScenario));
  }

 private:
  struct Image {
    std::string path;
    std::string digest;
    std::string problem;  // empty when it is fit for use
  };

  result::Result<void> LoadImage(std::string_view name) {
    Image image{
        .path = (context_.installation.images / fmt::format("{}.elf", name)).string(), .digest = {}, .problem = {}};
    auto file = vmm::LoadedFile::Read(image.path, vmm::kMaxImageFileBytes);
    auto digest = file ? vmm::Sha256Hex(file->bytes()) : vmm::Result<std::string>(Fail(std::move(file.error())));
    if (digest) {
      image.digest = *digest;
      if (auto added = journal_.AddImage(std::string(name), image.digest); !added) return added;
    } else {
      image.problem = digest.error().ToString();
    }
    images_.emplace(name, std::move(image));
    return {};
  }
  [[nodiscard]] const Image& ImageOf(const Job& job) const { return images_.find(job.workload.image())->second; }

  result::Result<void> Announce() {
    for (const Job& job : jobs_) {
      if (images_.contains(job.workload.image())) continue;
      if (auto loaded = LoadImage(job.workload.image()); !loaded) return loaded;
    }
    std::string fio_problem;
    if (context_.io.fio) {
      auto found = FindFio();
      if (found) {
        fio_ = std::move(*found);
      } else {
        fio_problem = found.error().ToString();
      }
    }
    std::string iperf3_problem;
    if (context_.io.iperf3) {
      auto found = FindIperf3();
      if (found) {
        iperf3_ = std::move(*found);
      } else {
        iperf3_problem = found.error().ToString();
      }
    }
    for (Job& job : jobs_) {
      for (Subject& subject : job.subjects) {
        std::pair<result::Status, std::string> state = {result::Status::kOk, {}};
        const std::string& image_problem = ImageOf(job).problem;
        if (subject.side == Side::kVm && !image_problem.empty()) state = {result::Status::kError, image_problem};
        if (subject.side == Side::kVm && !context_.vm_unsupported.empty()) {
          state = {result::Status::kUnsupported, context_.vm_unsupported};
        }
        if (subject.side == Side::kFio && !fio_problem.empty()) state = {result::Status::kUnsupported, fio_problem};
        if (subject.side == Side::kIperf3 && !iperf3_problem.empty()) {
          state = {result::Status::kUnsupported, iperf3_problem};
        }
        subject.active = state.first == result::Status::kOk;
        if (auto announced = AnnounceSubject(job, subject, state.first, state.second); !announced) return announced;
      }
    }
    return {};
  }

  result::Result<void> AnnounceSubject(const Job& job, const Subject& subject, result::Status status,
                                       const std::string& reason) {
    for (const auto& [metric, id] : subject.ids) {
      result::Measurement measurement;
      measurement.id = id;
      measurement.scenario = kScenario;
      measurement.workload = job.workload.name;
      measurement.substrate = ToString(subject.side);
      measurement.params = job.workload.params;
      if (job.workload.names_metric) measurement.params["metric"] = std::string(ToString(metric));
      measurement.unit = job.workload.UnitOf(metric);
      measurement.direction = DirectionOf(metric);
      if (subject.side == Side::kVm && status != result::Status::kError) {
        measurement.image = job.workload.image();
        measurement.image_sha256 = ImageOf(job).digest;
      }
      measurement.status = status;
      measurement.reason = reason;
      if (auto added = journal_.AddMeasurement(measurement); !added) return added;
    }
    return {};
  }

  // Files for those workloads that want one. Where there can be none, they say so; the others run.
  result::Result<void> PrepareDisks() {
    const auto wants = [this](auto condition) {
      return std::ranges::any_of(jobs_, [&](const Job& job) {
        return std::ranges::any_of(job.subjects,
                                   [&](const Subject& subject) { return subject.active && condition(job, subject); });
      });
    };
    const auto has = [](const Job& job, bool is_file) {
      const DiskLoad* const disk = job.workload.disk();
      return disk != nullptr && (disk->setup.kind != DiskKind::kRam) == is_file;
    };
    const auto is_file = [&](const Job& job) { return has(job, true); };
    const auto of_fio = [](const Subject& subject) { return subject.side == Side::kFio; };
    const std::filesystem::path& folder = journal_.folder();
    if (wants([&](const Job& job, const Subject& subject) { return is_file(job) && !of_fio(subject); })) {
      if (auto done = Prepare(ScratchDisk::Create(folder, disk_bytes_), file_, is_file, Side::kBare); !done)
        return done;
    }
    // fio writes what it likes: it has disks of its own.
    if (wants([&](const Job& job, const Subject& subject) { return is_file(job) && of_fio(subject); })) {
      if (auto done = Prepare(ScratchDisk::Create(folder, disk_bytes_), fio_file_, is_file, Side::kFio); !done) {
        return done;
      }
    }
    const auto is_ram = [&](const Job& job) { return has(job, false); };
    if (wants([&](const Job& job, const Subject& subject) { return is_ram(job) && of_fio(subject); })) {
      return Prepare(ScratchDisk::CreateInMemory(disk_bytes_), fio_ram_, is_ram, Side::kFio);
    }
    return {};
  }

  template <typename Concerns>
  result::Result<void> Prepare(vmm::Result<ScratchDisk> made, std::optional<ScratchDisk>& place, Concerns concerns,
                               Side side) {
    if (made) {
      place.emplace(std::move(*made));
      return {};
    }
    for (Job& job : jobs_) {
      for (Subject& subject : job.subjects) {
        if (!concerns(job) || (subject.side == Side::kFio) != (side == Side::kFio) || !subject.active) continue;
        if (auto done = GiveUp(subject, result::Status::kError, made.error().ToString()); !done) return done;
      }
    }
    return {};
  }

  result::Result<void> RunRound(Job& job, std::uint32_t round, Progress& progress) {
    const auto active = ActiveSubjects(job);
    if (active.empty()) return {};
    const bool reversed = (random_() & 1) != 0;
    std::uint32_t order = 0;
    for (const auto& [index, arm] : OrderOfRound(active, reversed)) {
      Subject& subject = job.subjects[index];
      if (!subject.active) continue;
      progress.Step(subject.ids.front().second);
      auto done = subject.side == Side::kFio      ? RunFioOnce(job, subject, round, order, arm)
                  : subject.side == Side::kIperf3 ? RunIperf3Once(job, subject, round, order, arm)
                                                  : RunProcess(job, subject, round, order, arm);
      if (!done) return done;
      ++order;
      if (StopSignal() != 0) return {};
    }
    return {};
  }

  result::Result<void> RunProcess(Job& job, Subject& subject, std::uint32_t round, std::uint32_t order,
                                  result::Arm arm) {
    GuestRun run = RunGuest(context_, RequestFor(job, subject), ImageOf(job).digest);
    const auto measured = CountRun(
        run, subject.processes,
        [this, &subject](result::Status status, const std::string& reason) { return GiveUp(subject, status, reason); });
    if (!measured) return tl::unexpected(measured.error());
    if (!*measured) return {};
    subject.resent_frames += run.answer.resent;
    for (const auto& [metric, id] : subject.ids) {
      result::Round record = RoundOf(run.answer, round, order, arm);
      record.samples = SamplesOf(metric, run.answer);
      if (auto added = journal_.AddRound(id, record); !added) return added;
    }
    return {};
  }

  result::Result<void> RunFioOnce(const Job& job, Subject& subject, std::uint32_t round, std::uint32_t order,
                                  result::Arm arm) {
    const DiskLoad& load = *job.workload.disk();  // Tells() lets fio near nothing else
    const bool is_ram = load.setup.kind == DiskKind::kRam;
    const std::string path = (is_ram ? *fio_ram_ : *fio_file_).path();
    auto numbers = RunFio(fio_, load, path, disk_bytes_, context_.cpu, context_.seed + round, std::chrono::seconds(1));
    if (StopSignal() != 0) return {};
    if (!numbers) return GiveUp(subject, result::Status::kError, numbers.error().ToString());
    return AddReference(subject, round, order, arm, [&](IoMetric metric) { return NumberOf(metric, *numbers); });
  }

  result::Result<void> RunIperf3Once(const Job& job, Subject& subject, std::uint32_t round, std::uint32_t order,
                                     result::Arm arm) {
    const NetLoad& load = *job.workload.network();  // Tells() lets iperf3 near nothing else
    auto bytes_per_s = RunIperf3(iperf3_, load, context_.cpu, peer_cpu_, std::chrono::seconds(1));
    if (StopSignal() != 0) return {};
    if (!bytes_per_s) {
      const bool can = bytes_per_s.error().kind != vmm::ErrorKind::kUnsupported;
      return GiveUp(subject, can ? result::Status::kError : result::Status::kUnsupported,
                    bytes_per_s.error().ToString());
    }
    return AddReference(subject, round, order, arm, [&](IoMetric) { return std::optional(*bytes_per_s / 1e6); });
  }

  // A round of another program: one sample of what it says itself.
  template <typename Number>
  result::Result<void> AddReference(Subject& subject, std::uint32_t round, std::uint32_t order, result::Arm arm,
                                    Number number) {
    ++subject.processes.measured;
    for (const auto& [metric, id] : subject.ids) {
      result::Round record;
      record.round = round;
      record.order = order;
      record.arm = arm;
      record.iterations = 1;
      record.samples = {number(metric).value_or(0)};
      if (auto added = journal_.AddRound(id, record); !added) return added;
    }
    return {};
  }

  [[nodiscard]] substrates::Request RequestFor(const Job& job, const Subject& subject) const {
    const Effort& effort = context_.effort;
    substrates::Request request;
    request.substrate = subject.side == Side::kVm ? SubstrateKind::kVm : SubstrateKind::kBare;
    request.image = ImageOf(job).path;
    request.seed = context_.seed;
    request.cpu = context_.cpu;
    request.batch_target_ns = static_cast<std::uint64_t>(effort.batch_target.count());
    request.samples = effort.samples;
    request.max_warmup_batches = effort.max_warmup_batches;
    // A guest may take many times as long as the process that calibrated: a disk in memory against exits.
    constexpr std::uint64_t kSlowest = 64;
    const std::uint64_t batches = effort.max_warmup_batches + 3ULL * effort.samples + 8;
    request.deadline_ns = batches * request.batch_target_ns * kSlowest +
                          static_cast<std::uint64_t>(std::chrono::nanoseconds(kChildSetUpLimit).count());
    request.tsc_hz = context_.tsc_hz;
    request.doorbell = context_.doorbell;
    if (const NetLoad* network = job.workload.network()) {
      AskForNetwork(*network, request);
    } else {
      AskForDisk(*job.workload.disk(), request);
    }
    return request;
  }

  // Where another thread that has work shares the CPU, looking keeps it from working.
  [[nodiscard]] std::uint64_t SpinTicks(bool has_own_cpu) const {
    return has_own_cpu ? static_cast<std::uint64_t>(kSpinSeconds * context_.tsc_hz) : 0;
  }

  void AskForDisk(const DiskLoad& load, substrates::Request& request) const {
    request.operation = static_cast<std::uint64_t>(load.operation);
    request.parameters = {load.block_bytes, load.depth, disk_bytes_, SpinTicks(io_cpu_ != context_.cpu)};
    request.arena_bytes = payload::DiskArenaBytes(load.block_bytes, load.depth);
    request.latencies = load.operation != payload::DiskOperation::kRing;
    request.disk = load.setup;
    request.disk.size_bytes = disk_bytes_;
    request.disk.io_cpu = io_cpu_;
    if (load.setup.kind != DiskKind::kRam) request.disk.path = file_->path();
  }

  void AskForNetwork(const NetLoad& load, substrates::Request& request) const {
    request.operation = static_cast<std::uint64_t>(load.operation);
    // The twin has no devices: its peer has the CPU to itself.
    const bool has_devices = request.substrate == SubstrateKind::kVm;
    const bool peer_has_cpu = peer_cpu_ != context_.cpu && (peer_cpu_ != io_cpu_ || !has_devices);
    request.parameters = {load.frame_bytes,
                          load.window,
                          SpinTicks(io_cpu_ != context_.cpu),
                          kResendMs,
                          kGiveUpMs,
                          static_cast<std::uint64_t>(context_.tsc_hz / 1000),
                          SpinTicks(peer_has_cpu)};
    request.arena_bytes = payload::kNetArenaBytes;
    request.latencies = load.operation == payload::NetOperation::kPingPong;
    request.network = load.setup;
    request.network.io_cpu = io_cpu_;
    request.network.peer_cpu = peer_cpu_;
  }

  result::Result<void> GiveUp(Subject& subject, result::Status status, const std::string& reason) {
    subject.active = false;
    for (const auto& [metric, id] : subject.ids) {
      if (auto done = journal_.SetStatus(id, status, reason); !done) return done;
    }
    return {};
  }

  result::Result<void> SettleVoids() {
    return scenarios::SettleVoids(
        jobs_, journal_, [](const Subject& subject) { return subject.ids.front().second; },
        [this](Subject& subject) { return GiveUp(subject, result::Status::kFailed, subject.processes.void_reason); });
  }

  // Nothing that was lost counts, but what is sent again takes time.
  result::Result<void> TellOfLosses() {
    for (const Job& job : jobs_) {
      for (const Subject& subject : job.subjects) {
        if (subject.resent_frames == 0) continue;
        auto added = journal_.AddFinding(
            {.id = "frames-resent",
             .severity = result::Severity::kInfo,
             .text = fmt::format("{} frames of {} were sent again.", subject.resent_frames, subject.ids.front().second),
             .evidence =
                 fmt::format("not acknowledged within {} ms: lost, or a thread that waited for its CPU", kResendMs)});
        if (!added) return added;
      }
    }
    return {};
  }

  const RunContext& context_;
  result::Journal& journal_;
  std::vector<Job> jobs_;
  std::mt19937_64 random_;
  std::uint64_t disk_bytes_;
  int io_cpu_;
  int peer_cpu_;
  std::map<std::string, Image, std::less<>> images_;
  std::filesystem::path fio_;
  std::filesystem::path iperf3_;
  std::optional<ScratchDisk> file_;
  std::optional<ScratchDisk> fio_file_;
  std::optional<ScratchDisk> fio_ram_;
};

}  // namespace

result::Result<void> RunIo(const RunContext& context, result::Journal& journal) {
  return IoRun(context, journal).Run();
}

std::vector<std::string> IoIds(const RunContext& context) {
  std::vector<std::string> ids;
  for (Job& job : SelectJobs(context)) {
    for (Subject& subject : job.subjects) {
      for (auto& [metric, id] : subject.ids) ids.push_back(std::move(id));
    }
  }
  return ids;
}

Description DescribeIo(std::string_view id) {
  static const auto* const kDescriptions = [] {
    auto* made = new std::map<std::string, Description, std::less<>>;
    static const std::vector<IoWorkload> kWorkloads = IoWorkloads();
    for (const IoWorkload& workload : kWorkloads) {
      for (const Side side : {Side::kBare, Side::kVm, Side::kFio, Side::kIperf3}) {
        for (const IoMetric metric : workload.metrics) {
          made->emplace(IdOf(workload, metric, side), Description{workload.UnitOf(metric), workload.summary});
        }
      }
    }
    return made;
  }();
  const auto found = kDescriptions->find(id);
  return found == kDescriptions->end() ? Description{} : found->second;
}

}  // namespace nestbench::scenarios
