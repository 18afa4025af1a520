#include "scratch_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "nestbench/substrates/disk.h"

namespace nestbench::scenarios {

using vmm::Error;
using vmm::UniqueFd;

vmm::Result<ScratchDisk> ScratchDisk::Create(const std::filesystem::path& folder, std::uint64_t size_bytes) {
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!fd.valid()) {
    // A file system without O_TMPFILE: a name for an instant.
    std::string name = (folder / "disk-XXXXXX").string();
    fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
    if (!fd.valid()) return Fail(Error::System("mkostemp", errno, name));
    ::unlink(name.c_str());
  }
  // All at once: a file with holes would be measured allocating them.
  if (const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(size_bytes)); error != 0) {
    return Fail(Error::System("posix_fallocate", error,
                              fmt::format("a disk of {} MiB in {}", size_bytes >> 20, folder.string())));
  }
  return Fill(std::move(fd), size_bytes);
}

vmm::Result<ScratchDisk> ScratchDisk::CreateInMemory(std::uint64_t size_bytes) {
  UniqueFd fd(::memfd_create("nestbench-disk", MFD_CLOEXEC));
  if (!fd.valid()) return Fail(Error::System("memfd_create", errno));
  return Fill(std::move(fd), size_bytes);
}

vmm::Result<ScratchDisk> ScratchDisk::Fill(UniqueFd fd, std::uint64_t size_bytes) {
  if (auto stamped = substrates::StampDisk(fd.get(), size_bytes); !stamped) return Fail(std::move(stamped.error()));
  if (::fdatasync(fd.get()) != 0) return Fail(Error::System("fdatasync", errno, "the disk of the measurement"));
  return ScratchDisk(std::move(fd));
}

vmm::Result<UniqueFd> ScratchDisk::Open(bool direct) const {
  UniqueFd fd(::open(path().c_str(), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0)));
  if (!fd.valid()) return Fail(Error::System("open", errno, direct ? "a disk with O_DIRECT" : "a disk"));
  return fd;
}

std::string ScratchDisk::path() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()); }

}  // namespace nestbench::scenarios
