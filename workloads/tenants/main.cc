// nestbench-tenant: a guest, zone or process of an experiment with many. Started by nestbench; not meant to be typed.
//   nestbench-tenant zygote FD DISK IMAGE...   forks a tenant for each Spawn message on the socket FD
//   nestbench-tenant single FD DISK IMAGE...   is the tenant of the first Spawn message itself (in a zone)
// DISK: a descriptor of the file that is the disk of those tenants that have one, open with O_DIRECT or not; `-`: none.
#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>

#include "nestbench/vmm/machine/user_machine.h"
#include "signals.h"
#include "tenant.h"
#include "zygote.h"

namespace nestbench::tenants {
namespace {

using vmm::Error;
using vmm::Fail;
using vmm::Result;

Result<int> ParseSocket(std::string_view text) {
  int fd = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fd);
  int type = 0;
  socklen_t size = sizeof(type);
  if (error != std::errc() || end != text.data() + text.size() || fd < 0 ||
      ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET) {
    return Fail(Error::InvalidArgument("start tenant", fmt::format("`{}` is no control channel; run nestbench", text)));
  }
  return fd;
}

Result<void> TakeDisk(std::string_view text, Inheritance& inheritance) {
  if (text == "-") return {};
  int fd = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fd);
  struct stat info {};
  if (error != std::errc() || end != text.data() + text.size() || fd < 0 || ::fstat(fd, &info) != 0) {
    return Fail(Error::InvalidArgument("start tenant", fmt::format("`{}` is no disk; run nestbench", text)));
  }
  const int flags = ::fcntl(fd, F_GETFL);
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  inheritance.disk = vmm::UniqueFd(fd);
  inheritance.disk_bytes = static_cast<std::uint64_t>(info.st_size);
  inheritance.disk_is_direct = flags >= 0 && (flags & O_DIRECT) != 0;
  return {};
}

Result<Inheritance> Prepare(int argc, char** argv) {
  Inheritance inheritance;
  if (auto taken = TakeDisk(argv[3], inheritance); !taken) return Fail(std::move(taken.error()));
  for (int i = 4; i < argc; ++i) {
    auto image = vmm::LoadedFile::Read(argv[i], vmm::kMaxImageFileBytes);
    if (!image) return Fail(std::move(image.error()));
    auto parsed = vmm::UserMachine::Parse(image->bytes());
    auto& added = inheritance.images.emplace_back(Inheritance::Image{std::move(*image), std::nullopt});
    if (parsed) added.parsed.emplace(std::move(*parsed));  // else whoever asks for it is told why
  }
  if (auto device = vmm::KvmDevice::Open()) {
    inheritance.device.emplace(std::move(*device));
    if (auto cpuid = inheritance.device->SupportedCpuid()) inheritance.cpuid.emplace(std::move(*cpuid));
  } else {
    inheritance.device_reason = device.error().ToString();
  }
  inheritance.full_disk = vmm::UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  const std::pair<TenantMay, std::optional<SystemCallFilter>*> filters[] = {
      {TenantMay::kNothingMore, &inheritance.filter},
      {TenantMay::kFork, &inheritance.forking_filter},
      {TenantMay::kDriveDevices, &inheritance.device_filter}};
  for (const auto& [may, place] : filters) {
    auto filter = SystemCallFilter::CompileAfterSetUp(may);
    if (!filter) return Fail(std::move(filter.error()));
    place->emplace(std::move(*filter));
  }
  auto outer = SystemCallFilter::CompileOuter();
  if (!outer) return Fail(std::move(outer.error()));
  // Inherited by every tenant, so that none has to do it. One heap for all threads: with more the C library would open
  // a file to count CPUs, which no tenant may.
  ::mallopt(M_ARENA_MAX, 1);
  ::prctl(PR_SET_TIMERSLACK, 1);
  for (const auto& [resource, most] :
       {std::pair(RLIMIT_CORE, rlim_t{0}), std::pair(RLIMIT_FSIZE, rlim_t{inheritance.disk_bytes})}) {
    const rlimit limit = {most, most};
    if (::setrlimit(resource, &limit) != 0) return Fail(Error::System("setrlimit", errno));
  }
  if (auto installed = InstallLastWords(); !installed) return Fail(std::move(installed.error()));
  if (auto loaded = outer->Load(); !loaded) return Fail(std::move(loaded.error()));
  return inheritance;
}

int ServeAsSingle(const Inheritance& inheritance, Channel channel) {
  auto message = std::make_unique<ReceivedMessage>();
  for (;;) {
    pollfd polled = {channel.get(), POLLIN, 0};
    if (::poll(&polled, 1, -1) < 0 && errno != EINTR) return 1;
    auto received = channel.Receive(*message);
    if (!received || *received == Channel::Outcome::kClosed) return 0;
    if (*received == Channel::Outcome::kMessage && message->type() == MessageType::kSpawn) break;
  }
  return LiveAsTenant(inheritance, message->As<Spawn>(), std::move(channel));
}

int Main(int argc, char** argv) {
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (argc < 4 || (mode != "zygote" && mode != "single")) {
    fmt::print(stderr, "nestbench-tenant is started by nestbench; run nestbench\n");
    return 2;
  }
  const pid_t parent = ::getppid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) return 1;
  ::signal(SIGPIPE, SIG_IGN);
  // Ctrl-C reaches the whole group of processes; when to stop is the supervisor's to say.
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  auto socket = ParseSocket(argv[2]);
  auto inheritance = Prepare(argc, argv);
  if (!socket || !inheritance) {
    fmt::print(stderr, "nestbench-tenant: {}\n", (socket ? inheritance.error() : socket.error()).ToString());
    return socket ? 1 : 2;
  }
  Channel channel{vmm::UniqueFd(*socket)};
  ::fcntl(*socket, F_SETFD, FD_CLOEXEC);
  return mode == "zygote" ? ServeAsZygote(*inheritance, channel) : ServeAsSingle(*inheritance, std::move(channel));
}

}  // namespace
}  // namespace nestbench::tenants

int main(int argc, char** argv) { return nestbench::tenants::Main(argc, argv); }
