// What: vmm-core's own hot paths by themselves, without entering a guest. Unit: ns for each call, lower is better.
//   bus_dispatch/kind=pio|mmio    the bus finds the device of the last access again and writes 4 bytes to it; floor:
//   the
//                                 device's own Write, called directly
//   bus_dispatch_alternating      two devices in turn, so that the bus has to search; floor: their Writes in turn
//   exit_decode/kind=pio|mmio     kvm_run to the variant; floor: the same fields, read and compared
//   guest_memory_read, _write/bytes=8|4096   checked access; floor: memcpy
//   mailbox_read                  a payload's reply, copied and checked; floor: the copy
//   page_tables/pages=256         1 MiB mapped in 4 KiB pages
//   elf_parse                     the checks of the payload image `exits`
// Timer: the real time of Google Benchmark. Left out: setting up. Included: the loop, and keeping the result alive.
#include <array>
#include <cstring>
#include <string>

#include "devices/doorbell/doorbell.h"
#include "devices/panic/panic.h"
#include "devices/serial/serial.h"
#include "guest.h"
#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/vmm/bus/bus.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/machine/page_tables.h"
#include "nestbench/vmm/memory/guest_memory.h"
#include "timing.h"

namespace nestbench::micro {
namespace {

using abi::GuestPhysAddr;
using benchmark::DoNotOptimize;
using benchmark::State;
using vmm::AccessStatus;
using vmm::PortAddr;

constexpr std::array<std::byte, 4> kFourBytes = {};
constexpr std::uint64_t kMemoryBytes = 16ULL << 20;

void Require(AccessStatus status) {
  if (status != AccessStatus::kOk) throw Broken("a device refused: " + std::string(vmm::ToString(status)));
}

// The devices of a UserMachine on their buses.
struct Board {
  struct NoIrq final : vmm::IrqLine {
    void Set(bool /*level*/) override {}
  } no_irq;
  struct NoSink final : vmm::ByteSink {
    void Put(std::span<const std::byte> /*bytes*/) override {}
  } no_sink;
  vmm::Doorbell doorbell;
  vmm::PanicPort panic;
  vmm::Serial16550 serial{no_irq, no_sink};
  vmm::PortBus ports;
  vmm::MmioBus mmio;

  Board() {
    Take(ports.Add(PortAddr(abi::kDoorbellPort), vmm::Doorbell::kSizeBytes, doorbell, "doorbell"));
    Take(ports.Add(PortAddr(abi::kPanicPort), vmm::PanicPort::kSizeBytes, panic, "panic port"));
    Take(ports.Add(PortAddr(abi::kSerialPort), vmm::Serial16550::kPortCount, serial, "serial port"));
    Take(mmio.Add(GuestPhysAddr(abi::kDoorbellPage), vmm::Doorbell::kSizeBytes, doorbell, "doorbell page"));
  }
};

constexpr std::uint16_t kScratchOffset = 7;  // a register of the 16550 that only remembers

void RegisterBus() {
  Register("hotpath/bus_dispatch/kind=pio/vm", Timer::kReal, [](State& state) {
    Board board;
    for (auto _ : state) Require(board.ports.Write(PortAddr(abi::kDoorbellPort), kFourBytes));
  });
  Register("hotpath/bus_dispatch/kind=mmio/vm", Timer::kReal, [](State& state) {
    Board board;
    for (auto _ : state) Require(board.mmio.Write(GuestPhysAddr(abi::kDoorbellPage), kFourBytes));
  });
  for (const char* kind : {"pio", "mmio"}) {
    Register(std::string("hotpath/bus_dispatch/kind=") + kind + "/floor", Timer::kReal, [](State& state) {
      Board board;
      vmm::Device* device = &board.doorbell;
      for (auto _ : state) {
        DoNotOptimize(device);  // or the compiler would see through the virtual call
        Require(device->Write(0, kFourBytes));
      }
    });
  }
  Register("hotpath/bus_dispatch_alternating/vm", Timer::kReal, [](State& state) {
    Board board;
    for (auto _ : state) {
      Require(board.ports.Write(PortAddr(abi::kDoorbellPort), kFourBytes));
      Require(board.ports.Write(PortAddr(abi::kSerialPort + kScratchOffset), std::span(kFourBytes).first(1)));
    }
  });
  Register("hotpath/bus_dispatch_alternating/floor", Timer::kReal, [](State& state) {
    Board board;
    std::array<vmm::Device*, 2> devices = {&board.doorbell, &board.serial};
    for (auto _ : state) {
      DoNotOptimize(devices);
      Require(devices[0]->Write(0, kFourBytes));
      Require(devices[1]->Write(kScratchOffset, std::span(kFourBytes).first(1)));
    }
  });
}

// What KVM writes for a doorbell by port or by page.
void FillExit(kvm_run& run, abi::Doorbell doorbell) {
  if (doorbell == abi::Doorbell::kPort) {
    run.exit_reason = KVM_EXIT_IO;
    run.io.direction = KVM_EXIT_IO_OUT;
    run.io.size = 4;
    run.io.port = abi::kDoorbellPort;
    run.io.count = 1;
    run.io.data_offset = abi::kPageBytes;
  } else {
    run.exit_reason = KVM_EXIT_MMIO;
    run.mmio.phys_addr = abi::kDoorbellPage;
    run.mmio.len = 4;
    run.mmio.is_write = 1;
  }
}

template <typename ExitType>
void DecodeWithLibrary(State& state, Environment& environment, abi::Doorbell doorbell) {
  const vmm::Vm vm = Take(vmm::Vm::Create(environment.device()));
  vmm::Vcpu vcpu = Take(vmm::Vcpu::Create(vm, abi::VcpuId{0}));
  FillExit(*vcpu.run(), doorbell);
  for (auto _ : state) {
    auto exit = vcpu.LastExit();
    if (!std::holds_alternative<ExitType>(exit)) throw Broken("decoded as something else");
    DoNotOptimize(exit);
  }
}

void DecodeByHand(State& state, abi::Doorbell doorbell) {
  kvm_run run = {};
  FillExit(run, doorbell);
  for (auto _ : state) {
    benchmark::ClobberMemory();
    bool rang = false;
    if (run.exit_reason == KVM_EXIT_IO) {
      rang = run.io.direction == KVM_EXIT_IO_OUT && run.io.port == abi::kDoorbellPort && run.io.size == 4;
    } else if (run.exit_reason == KVM_EXIT_MMIO) {
      rang = run.mmio.is_write != 0 && run.mmio.phys_addr == abi::kDoorbellPage && run.mmio.len == 4;
    }
    DoNotOptimize(rang);
    DoNotOptimize(&run);
  }
}

void RegisterDecoding(Environment& environment) {
  Register("hotpath/exit_decode/kind=pio/vm", Timer::kReal,
           [&environment](State& state) { DecodeWithLibrary<vmm::IoExit>(state, environment, abi::Doorbell::kPort); });
  Register("hotpath/exit_decode/kind=mmio/vm", Timer::kReal, [&environment](State& state) {
    DecodeWithLibrary<vmm::MmioExit>(state, environment, abi::Doorbell::kMmio);
  });
  Register("hotpath/exit_decode/kind=pio/floor", Timer::kReal,
           [](State& state) { DecodeByHand(state, abi::Doorbell::kPort); });
  Register("hotpath/exit_decode/kind=mmio/floor", Timer::kReal,
           [](State& state) { DecodeByHand(state, abi::Doorbell::kMmio); });
}

// Three regions, as a machine without an arena has; accesses go to the last one.
vmm::GuestMemory MakeMemory() {
  vmm::GuestMemory memory;
  for (const std::uint64_t start : {abi::kSupervisorBase, abi::kMailboxBase, abi::kImageBase}) {
    const std::uint64_t size_bytes = start == abi::kMailboxBase ? abi::kStackTop - start : kMemoryBytes;
    Take(memory.Add(Take(vmm::MemoryRegion::Create({GuestPhysAddr(start), size_bytes}, {}))));
  }
  return memory;
}

constexpr GuestPhysAddr kAccessed(abi::kImageBase + abi::kPageBytes);

template <std::size_t kBytes>
void RegisterMemory() {
  using Block = std::array<std::byte, kBytes>;
  const std::string parameter = "/bytes=" + std::to_string(kBytes) + "/";
  Register("hotpath/guest_memory_read" + parameter + "vm", Timer::kReal, [](State& state) {
    const vmm::GuestMemory memory = MakeMemory();
    for (auto _ : state) {
      auto block = memory.Read<Block>(kAccessed);
      if (!block) throw Broken(block.error().ToString());
      DoNotOptimize(*block);
    }
  });
  Register("hotpath/guest_memory_read" + parameter + "floor", Timer::kReal, [](State& state) {
    const vmm::GuestMemory memory = MakeMemory();
    const std::byte* source = Take(memory.Slice(kAccessed, kBytes)).data();
    Block block = {};
    for (auto _ : state) {
      DoNotOptimize(source);
      std::memcpy(block.data(), source, kBytes);
      DoNotOptimize(block);
    }
  });
  Register("hotpath/guest_memory_write" + parameter + "vm", Timer::kReal, [](State& state) {
    const vmm::GuestMemory memory = MakeMemory();
    Block block = {};
    for (auto _ : state) {
      DoNotOptimize(block);
      if (auto written = memory.Write(kAccessed, block); !written) throw Broken(written.error().ToString());
    }
  });
  Register("hotpath/guest_memory_write" + parameter + "floor", Timer::kReal, [](State& state) {
    const vmm::GuestMemory memory = MakeMemory();
    std::byte* destination = Take(memory.Slice(kAccessed, kBytes)).data();
    Block block = {};
    for (auto _ : state) {
      DoNotOptimize(block);
      DoNotOptimize(destination);
      std::memcpy(destination, block.data(), kBytes);
      benchmark::ClobberMemory();
    }
  });
}

void RegisterMailbox() {
  static constexpr auto kMakeMailbox = [] {
    abi::Mailbox mailbox = {};
    mailbox.reply.sequence = 1;
    mailbox.reply.status = abi::PayloadStatus::kOk;
    mailbox.reply.tsc_begin = 1;
    mailbox.reply.tsc_end = 2;
    mailbox.reply.operations = 1;
    return mailbox;
  };
  Register("hotpath/mailbox_read/vm", Timer::kReal, [](State& state) {
    abi::Mailbox mailbox = kMakeMailbox();
    const auto request = MakeRequest(abi::Command::kRun, abi::Doorbell::kPort, 0, 1);
    for (auto _ : state) {
      DoNotOptimize(mailbox);
      auto reply = substrates::ReadReply(std::as_bytes(std::span(&mailbox, 1)), request);
      if (!reply) throw Broken(reply.error().ToString());
      DoNotOptimize(*reply);
    }
  });
  Register("hotpath/mailbox_read/floor", Timer::kReal, [](State& state) {
    abi::Mailbox mailbox = kMakeMailbox();
    abi::MailboxReply reply = {};
    for (auto _ : state) {
      DoNotOptimize(mailbox);
      std::memcpy(&reply, &mailbox.reply, sizeof(reply));
      DoNotOptimize(reply);
    }
  });
}

void RegisterBuilding(Environment& environment) {
  Register("hotpath/page_tables/pages=256/vm", Timer::kReal, [](State& state) {
    constexpr std::uint64_t kPages = 256;
    constexpr std::uint64_t kPoolBytes = 8 * abi::kPageBytes;
    const vmm::GuestMemory memory = MakeMemory();
    const auto pool = Take(memory.Slice(GuestPhysAddr(abi::kSupervisorBase), kPoolBytes));
    for (auto _ : state) {
      state.PauseTiming();
      std::memset(pool.data(), 0, pool.size());
      state.ResumeTiming();
      auto tables = Take(vmm::PageTableBuilder::Create(memory, {GuestPhysAddr(abi::kSupervisorBase), kPoolBytes}));
      Take(tables.Map(abi::GuestVirtAddr(abi::kImageBase), GuestPhysAddr(abi::kImageBase), kPages * abi::kPageBytes,
                      abi::kPageBytes, {.user = true, .writable = true}));
    }
  });
  Register("hotpath/elf_parse/vm", Timer::kReal, [&environment](State& state) {
    const auto file = environment.exits_image();
    for (auto _ : state) {
      auto image = vmm::ParseElf(file, {GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes});
      if (!image) throw Broken(image.error().ToString());
      DoNotOptimize(*image);
    }
  });
}

}  // namespace

void RegisterHotPath(Environment& environment) {
  RegisterBus();
  RegisterDecoding(environment);
  RegisterMemory<8>();
  RegisterMemory<4096>();
  RegisterMailbox();
  RegisterBuilding(environment);
}

}  // namespace nestbench::micro
