#include "nestbench/workloads/catalogue.h"

#include <utility>
#include <vector>

namespace nestbench::workloads {
namespace {

constexpr std::uint64_t kKiB = 1ULL << 10;
constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kSmallPage = 4096;
constexpr std::uint64_t kLargePage = 2 * kMiB;

using Params = std::map<std::string, std::variant<std::uint64_t, std::string>>;

// Backing of the arena on the host and its mapping in a guest.
struct Pages {
  std::uint64_t host_bytes = kSmallPage;
  std::uint64_t guest_bytes = kSmallPage;
};
constexpr Pages kSmall{kSmallPage, kSmallPage};
constexpr Pages kLarge{kLargePage, kLargePage};
constexpr Pages kMixed[] = {{kSmallPage, kLargePage}, {kLargePage, kSmallPage}};

// An arena is made of whole pages of either size.
std::uint64_t WholePages(std::uint64_t bytes) { return (bytes + kLargePage - 1) / kLargePage * kLargePage; }

// 4 KiB on both sides is what goes without saying; other sizes are dimensions of the id.
void SetPages(Workload& workload, Pages pages) {
  workload.host_page_bytes = pages.host_bytes;
  workload.guest_page_bytes = pages.guest_bytes;
  if (pages.host_bytes != pages.guest_bytes) {
    workload.params["host_page_bytes"] = pages.host_bytes;
    workload.params["guest_page_bytes"] = pages.guest_bytes;
  } else if (pages.host_bytes != kSmallPage) {
    workload.params["page_bytes"] = pages.host_bytes;
  }
}

Workload NsPer(std::string name, std::string unit, std::string summary) {
  Workload workload;
  workload.image = name;
  workload.name = std::move(name);
  workload.unit = std::move(unit);
  workload.summary = std::move(summary);
  return workload;
}

Workload Rate(std::string name, std::string unit, Metric metric, double scale, std::string summary) {
  Workload workload = NsPer(std::move(name), std::move(unit), std::move(summary));
  workload.direction = Direction::kHigher;
  workload.metric = metric;
  workload.scale = scale;
  return workload;
}

// Floating-point operations per microsecond to GFLOP/s.
constexpr double kGigaPerMicrosecond = 1e-3;
// GB/s to MB/s.
constexpr double kMegaPerGiga = 1e3;

void AddFma(std::vector<Workload>& catalogue) {
  Workload fma = Rate("cpu_fma", "GFLOP/s", Metric::kOperationsPerMicrosecond, kGigaPerMicrosecond,
                      "peak of AVX2 fused multiply-add with twelve accumulators");
  catalogue.push_back(fma);
  fma.operation = 1;
  fma.params["vector"] = "avx512";
  fma.summary = "peak of AVX-512 fused multiply-add with twelve accumulators";
  fma.profile = Profile::kFull;  // many CPUs lack it; asked for, it would be reported as unsupported there
  catalogue.push_back(std::move(fma));
}

void AddHash(std::vector<Workload>& catalogue) {
  constexpr std::uint64_t kSlotBytes = 16;
  constexpr std::uint64_t kDefaultSlots = 64 * kKiB;
  for (const std::uint64_t slots : {kDefaultSlots, kMiB, 4 * kMiB}) {
    Workload hash =
        NsPer("cpu_hash", "ns/lookup", "dependent lookups in an open-addressing hash table, half of them hits");
    hash.parameters[0] = slots;
    hash.arena_bytes = WholePages(slots * kSlotBytes);
    if (slots != kDefaultSlots) hash.params["slots"] = slots;
    hash.profile = slots == kDefaultSlots ? Profile::kQuick : Profile::kStandard;
    catalogue.push_back(std::move(hash));
  }
}

void AddCpu(std::vector<Workload>& catalogue) {
  catalogue.push_back(NsPer("cpu_integer", "ns/op", "dependent chain of 64-bit multiply, xor and rotate"));
  catalogue.push_back(NsPer("cpu_branches", "ns/branch", "conditional branches that cannot be predicted"));
  AddFma(catalogue);

  constexpr std::uint64_t kMatrixRows = 256;
  Workload matmul = Rate("cpu_matmul", "GFLOP/s", Metric::kOperationsPerMicrosecond, kGigaPerMicrosecond,
                         "blocked product of two 256 x 256 matrices of doubles");
  matmul.parameters[0] = kMatrixRows;
  matmul.arena_bytes = WholePages(4 * kMatrixRows * kMatrixRows * sizeof(double));
  catalogue.push_back(std::move(matmul));

  catalogue.push_back(Rate("cpu_sha256", "MB/s", Metric::kBytesPerNs, kMegaPerGiga, "SHA-256 in software"));

  constexpr std::uint64_t kKeys = kMiB;
  Workload sort =
      Rate("cpu_sort", "M keys/s", Metric::kOperationsPerMicrosecond, 1, "quicksort of 2^20 random 64-bit keys");
  sort.parameters[0] = kKeys;
  sort.arena_bytes = WholePages(2 * kKeys * sizeof(std::uint64_t));
  catalogue.push_back(std::move(sort));

  AddHash(catalogue);
  // The exits scenario has both as well, against the floor; here they stand beside the work they slow down.
  Workload cpuid = NsPer("cpu_cpuid", "ns/op", "CPUID, which leaves a guest");
  cpuid.profile = Profile::kStandard;
  catalogue.push_back(std::move(cpuid));
  Workload rdtsc = NsPer("cpu_rdtsc", "ns/op", "RDTSC, the control that should not leave a guest");
  rdtsc.profile = Profile::kStandard;
  catalogue.push_back(std::move(rdtsc));
}

void AddBandwidth(std::vector<Workload>& catalogue) {
  // In the order of the payload's operation numbers.
  constexpr const char* kOperations[] = {"read", "write", "copy", "triad", "write_nt", "copy_nt", "triad_nt"};
  constexpr std::uint64_t kSlackBytes = 8192;
  constexpr std::uint64_t kQuickArena = 64 * kMiB;
  constexpr std::uint64_t kLargeArena = 512 * kMiB;  // beyond four times the last-level cache of most hosts
  std::uint64_t operation = 0;
  for (const char* name : kOperations) {
    const auto add = [&](std::uint64_t arena_bytes, Pages pages, Profile profile) {
      Workload bandwidth = Rate("memory_bandwidth", "GB/s", Metric::kBytesPerNs, 1,
                                std::string("sequential bandwidth, ") + name + ", bytes counted as STREAM does");
      bandwidth.operation = operation;
      bandwidth.arena_bytes = arena_bytes;
      bandwidth.parameters[0] = arena_bytes - kSlackBytes;
      bandwidth.params["operation"] = name;
      if (arena_bytes != kQuickArena) bandwidth.params["arena_bytes"] = arena_bytes;
      SetPages(bandwidth, pages);
      bandwidth.profile = profile;
      catalogue.push_back(std::move(bandwidth));
    };
    const std::string_view is(name);
    const bool is_quick = is == "triad";
    add(kQuickArena, kSmall, is_quick ? Profile::kQuick : Profile::kStandard);
    add(kQuickArena, kLarge, Profile::kStandard);
    add(kLargeArena, kSmall, Profile::kFull);
    add(kLargeArena, kLarge, is == "triad" ? Profile::kStandard : Profile::kFull);
    for (const Pages& pages : kMixed) add(kQuickArena, pages, Profile::kFull);
    ++operation;
  }
}

void AddChase(std::vector<Workload>& catalogue) {
  const auto add = [&](std::uint64_t working_set_bytes, Pages pages, Profile profile) {
    Workload chase = NsPer("memory_chase", "ns/load", "dependent loads through a random cycle over the working set");
    chase.parameters[0] = working_set_bytes;
    chase.arena_bytes = WholePages(working_set_bytes);
    chase.params["working_set_bytes"] = working_set_bytes;
    SetPages(chase, pages);
    chase.profile = profile;
    catalogue.push_back(std::move(chase));
  };
  for (std::uint64_t size = 16 * kKiB; size <= 512 * kMiB; size *= 2) {
    const bool is_quick =
        size == 16 * kKiB || size == 256 * kKiB || size == kMiB || size == 8 * kMiB || size == 64 * kMiB;
    add(size, kSmall, is_quick ? Profile::kQuick : Profile::kStandard);
    add(size, kLarge, Profile::kStandard);
    for (const Pages& pages : kMixed) add(size, pages, Profile::kFull);
  }
}

void AddTlb(std::vector<Workload>& catalogue) {
  const auto add = [&](std::uint64_t page_count, std::uint64_t stride_bytes, Pages pages, Profile profile) {
    Workload tlb = NsPer("memory_tlb", "ns/access", "dependent loads of one cache line in each page, in random order");
    tlb.parameters[0] = page_count;
    tlb.parameters[1] = stride_bytes;
    tlb.arena_bytes = WholePages(page_count * stride_bytes);
    tlb.params["pages"] = page_count;
    tlb.params["stride_bytes"] = stride_bytes;
    SetPages(tlb, pages);
    tlb.profile = profile;
    catalogue.push_back(std::move(tlb));
  };
  // The same walk with either page size is the cost of the TLB misses; fewer pages than a TLB holds are the control.
  add(8192, kSmallPage, kSmall, Profile::kQuick);
  add(8192, kSmallPage, kLarge, Profile::kQuick);
  add(32, kSmallPage, kSmall, Profile::kStandard);
  add(1024, kSmallPage, kSmall, Profile::kStandard);
  add(1024, 64 * kKiB, kSmall, Profile::kStandard);
  add(512, kLargePage, kSmall, Profile::kStandard);
  add(512, kLargePage, kLarge, Profile::kStandard);
  for (const Pages& pages : kMixed) {
    add(8192, kSmallPage, pages, Profile::kFull);
    add(512, kLargePage, pages, Profile::kFull);
  }
}

void AddGups(std::vector<Workload>& catalogue) {
  const auto add = [&](std::uint64_t table_bytes, Pages pages, Profile profile) {
    Workload gups = Rate("memory_gups", "M updates/s", Metric::kOperationsPerMicrosecond, 1,
                         "random updates of a table, as HPC Challenge RandomAccess");
    gups.parameters[0] = table_bytes;
    gups.arena_bytes = WholePages(table_bytes);
    if (table_bytes != 64 * kMiB) gups.params["table_bytes"] = table_bytes;
    SetPages(gups, pages);
    gups.profile = profile;
    catalogue.push_back(std::move(gups));
  };
  add(64 * kMiB, kSmall, Profile::kQuick);
  add(64 * kMiB, kLarge, Profile::kStandard);
  add(512 * kMiB, kSmall, Profile::kStandard);
  add(512 * kMiB, kLarge, Profile::kStandard);
  for (const Pages& pages : kMixed) {
    add(64 * kMiB, pages, Profile::kFull);
    add(512 * kMiB, pages, Profile::kFull);
  }
}

void AddFirstTouch(std::vector<Workload>& catalogue) {
  const auto add = [&](Pages pages, Profile profile) {
    Workload touch = NsPer("memory_first_touch", "ns/page", "first write to each 4 KiB page of fresh zero memory");
    // A batch is one pass over the arena and cannot be repeated to make it longer: one fault for 512 pages needs more
    // of them for a batch that is long enough for its clock check.
    touch.arena_bytes = pages.host_bytes == kLargePage ? 512 * kMiB : 64 * kMiB;
    touch.fixed_iterations = touch.arena_bytes / kSmallPage;
    touch.reset_arena = true;
    SetPages(touch, pages);
    if (pages.host_bytes == pages.guest_bytes) touch.params["page_bytes"] = pages.host_bytes;
    touch.profile = profile;
    catalogue.push_back(std::move(touch));
  };
  add(kSmall, Profile::kQuick);
  add(kLarge, Profile::kQuick);
  for (const Pages& pages : kMixed) add(pages, Profile::kFull);
}

std::vector<Workload> MakeCatalogue() {
  std::vector<Workload> catalogue;
  AddCpu(catalogue);
  AddBandwidth(catalogue);
  AddChase(catalogue);
  AddTlb(catalogue);
  AddGups(catalogue);
  AddFirstTouch(catalogue);
  return catalogue;
}

}  // namespace

std::span<const Workload> Catalogue() {
  static const std::vector<Workload> kCatalogue = MakeCatalogue();
  return kCatalogue;
}

bool Includes(Profile profile, const Workload& workload) { return workload.profile <= profile; }

std::string Id(const Workload& workload, std::string_view scenario, std::string_view substrate) {
  std::string id(scenario);
  id.append("/").append(workload.name);
  char separator = '/';
  for (const auto& [key, value] : workload.params) {
    id.append(1, separator).append(key).append("=");
    if (const auto* number = std::get_if<std::uint64_t>(&value)) {
      id.append(std::to_string(*number));
    } else {
      id.append(std::get<std::string>(value));
    }
    separator = ',';
  }
  return id.append("/").append(substrate);
}

double ToUnit(const Workload& workload, double batch_ns, std::uint64_t operations, std::uint64_t bytes) {
  switch (workload.metric) {
    case Metric::kNsPerOperation:
      return workload.scale * batch_ns / static_cast<double>(operations);
    case Metric::kOperationsPerMicrosecond:
      return workload.scale * static_cast<double>(operations) * 1000 / batch_ns;
    case Metric::kBytesPerNs:
      break;
  }
  return workload.scale * static_cast<double>(bytes) / batch_ns;
}

}  // namespace nestbench::workloads
