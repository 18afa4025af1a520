// A disk of host memory: what virtio-blk costs without a disk. Everything on it ends with it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "devices/virtio/block/disk.h"

namespace nestbench::vmm::virtio {

class RamDisk final : public Disk {
 public:
  // `size_bytes` of zeroes, a multiple of 512; touched at once, so that no request pays for a first touch.
  static Result<std::unique_ptr<RamDisk>> Create(std::uint64_t size_bytes, bool read_only = false);
  RamDisk(const RamDisk&) = delete;
  RamDisk& operator=(const RamDisk&) = delete;
  ~RamDisk() override;

  [[nodiscard]] DiskLimits limits() const override { return {bytes_.size(), 512, read_only_}; }
  void Submit(DiskRequest& request) override;
  void Collect(std::vector<DiskRequest*>& done) override;
  void Drain(std::vector<DiskRequest*>& done) override { Collect(done); }

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }

 private:
  RamDisk(std::span<std::byte> bytes, bool read_only) : bytes_(bytes), read_only_(read_only) {}

  std::span<std::byte> bytes_;
  bool read_only_;
  std::vector<DiskRequest*> done_;
};

}  // namespace nestbench::vmm::virtio
