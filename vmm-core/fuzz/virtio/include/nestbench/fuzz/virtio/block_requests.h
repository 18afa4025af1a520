// Requests to a virtio disk for its fuzz programs: mostly right, so that they get far.
#pragma once

#include <linux/virtio_blk.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {

// Header, data, status. Each request has a header of its own: one that is under way keeps its own words.
inline void OfferBlockRequest(HostileDriver& driver, std::uint16_t queues, fuzz::Input& input) {
  constexpr std::uint64_t kHeaders = HostileDriver::kDataBase + 0x1'4000;
  constexpr std::uint32_t kTypes[] = {VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,          VIRTIO_BLK_T_FLUSH,
                                      VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_GET_ID};
  const auto how = input.Take<std::uint8_t>();
  const auto choice = input.Take<std::uint8_t>();
  const std::uint64_t place = kHeaders + 64ULL * (choice % 64);
  virtio_blk_outhdr header{};
  header.type = choice >= 0xF0 ? input.Take<std::uint32_t>() : kTypes[choice % 6];
  header.sector = (how & 1) != 0 ? input.Take<std::uint64_t>() : input.Take<std::uint8_t>();
  driver.Put(place, header);
  driver.Append(place, sizeof(header), false);
  if (header.type == VIRTIO_BLK_T_DISCARD || header.type == VIRTIO_BLK_T_WRITE_ZEROES) {
    virtio_blk_discard_write_zeroes range{};
    range.sector = header.sector;
    range.num_sectors = (how & 2) != 0 ? input.Take<std::uint32_t>() : input.Take<std::uint8_t>();
    range.flags = input.Take<std::uint8_t>() % 4U;
    driver.Put(place + sizeof(header), range);
    driver.Append(place + sizeof(header), sizeof(range), false);
  } else if (header.type != VIRTIO_BLK_T_FLUSH) {
    const bool is_write = header.type == VIRTIO_BLK_T_OUT;
    for (unsigned i = 0; i <= how / 4 % 3U; ++i) {
      const std::uint64_t address = HostileDriver::PickAddress(input);
      driver.Append(address, HostileDriver::PickLength(input), !is_write);
    }
  }
  if ((how & 0x10) == 0) driver.Append(place + 60, 1, true);
  driver.OfferAppended(static_cast<std::size_t>(how >> 6) % queues, (how & 0x20) == 0, choice % 16 == 15);
}

// A good write, flush and read. `let_go`: makes a slow disk finish.
inline void CheckBlock(HostileDriver& driver, bool read_only, const std::function<void()>& let_go) {
  constexpr std::uint64_t kHeader = HostileDriver::kDataBase;
  constexpr std::uint64_t kStatus = HostileDriver::kDataBase + 0x100;
  constexpr std::uint64_t kData = HostileDriver::kDataBase + 0x1000;
  const auto ask = [&](std::uint32_t type, bool has_data, std::uint8_t expected) {
    virtio_blk_outhdr header{};
    header.type = type;
    header.sector = 8;
    driver.Put(kHeader, header);
    driver.Put(kStatus, std::uint8_t{0xEE});
    if (has_data) {
      driver.Offer(0, {{kHeader, sizeof(header), false}, {kData, 4096, type == VIRTIO_BLK_T_IN}, {kStatus, 1, true}});
    } else {
      driver.Offer(0, {{kHeader, sizeof(header), false}, {kStatus, 1, true}});
    }
    RunWorkers(100);
    let_go();
    const std::uint32_t written = driver.Await(0, std::chrono::seconds(8));
    fuzz::Require(driver.arena().From(kStatus)[0] == std::byte{expected}, "a request ends as it should");
    fuzz::Require(written == 1 + (type == VIRTIO_BLK_T_IN ? 4096U : 0U), "the device says how much it wrote");
  };
  const auto data = driver.arena().From(kData).first(4096);
  std::memset(data.data(), 0x3C, data.size());
  ask(VIRTIO_BLK_T_OUT, true, read_only ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
  ask(VIRTIO_BLK_T_FLUSH, false, VIRTIO_BLK_S_OK);
  std::memset(data.data(), 0x11, data.size());
  ask(VIRTIO_BLK_T_IN, true, VIRTIO_BLK_S_OK);
  const std::byte expected{read_only ? std::uint8_t{0} : std::uint8_t{0x3C}};
  fuzz::Require(GuestArena::IsAll(data, expected), "what was written is read");
}

}  // namespace nestbench::vmm::virtio
