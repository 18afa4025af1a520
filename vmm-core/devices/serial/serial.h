// The serial port of a PC: one PC16550D UART. Source: National Semiconductor, "PC16550D Universal Asynchronous
// Receiver/Transmitter with FIFOs" data sheet, sections "Registers", "FIFO Interrupt Mode Operation" and "MODEM Control
// Register" (loopback).
//
// Emulated: every register; both FIFO modes; the interrupts with their priorities and what clears each; loopback;
// overrun and break with the line status interrupt.
// Not emulated: time (a byte is sent at once, so the transmitter is always empty; a character timeout is pending as
// soon as fewer bytes than the trigger level wait), baud rate (the divisor is kept, nothing more), word length, parity
// and stop bits, sending a break, DMA signals, the PC's gating of the interrupt by OUT2.
// Other end: a terminal that is always ready (CTS, DSR and DCD asserted, RI not).
//
// Any number of threads may access and feed it at once: a lock of its own serialises them. Sink and line are called
// with that lock held.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "devices/serial/registers.h"
#include "nestbench/vmm/bus/byte_sink.h"
#include "nestbench/vmm/bus/device.h"
#include "nestbench/vmm/bus/irq_line.h"

namespace nestbench::vmm {

class Serial16550 final : public Device {
 public:
  static constexpr std::uint64_t kPortCount = serial::kPortCount;

  // Borrows both: `irq` is the chip's INTR pin, `output` gets every byte that the guest sends (not in loopback).
  Serial16550(IrqLine& irq, ByteSink& output) : irq_(irq), output_(output) {}

  // Host to guest: takes as many of `bytes` as the guest has room for (16 with FIFOs, else 1; none in loopback, where
  // the chip's input is cut off) and returns how many. The caller keeps the rest and offers it again later.
  [[nodiscard]] std::size_t Push(std::span<const std::byte> bytes);

  // A break condition on the line: a zero byte that carries the break flag. False when there is no room for it.
  [[nodiscard]] bool PushBreak();

  // One byte at a time: other widths are kBadWidth. Writing LSR or MSR is kReadOnly.
  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  struct Entry {
    std::uint8_t value = 0;
    std::uint8_t errors = 0;  // LSR bits that belong to this byte; shown once it is the next to be read
  };

  [[nodiscard]] bool fifos_enabled() const { return (fcr_ & serial::kFcrEnable) != 0; }
  [[nodiscard]] bool loopback() const { return (mcr_ & serial::kMcrLoop) != 0; }
  [[nodiscard]] bool divisor_latch() const { return (lcr_ & serial::kLcrDivisorLatch) != 0; }
  [[nodiscard]] std::size_t capacity() const { return fifos_enabled() ? serial::kFifoBytes : 1; }

  [[nodiscard]] std::uint8_t ReadReceiver();
  [[nodiscard]] std::uint8_t ReadIdentification();
  [[nodiscard]] std::uint8_t ReadLineStatus();
  [[nodiscard]] std::uint8_t ReadModemStatus();
  void WriteTransmitter(std::byte value);
  void WriteInterruptEnable(std::uint8_t value);
  void WriteFifoControl(std::uint8_t value);
  void WriteModemControl(std::uint8_t value);

  [[nodiscard]] std::uint8_t ModemInputs() const;
  [[nodiscard]] std::uint8_t PendingInterrupt() const;
  void Receive(Entry entry);
  void ShowErrorsOfNext();
  void ClearReceiver();
  void UpdateIrq();

  std::mutex mutex_;
  IrqLine& irq_;
  ByteSink& output_;
  bool irq_level_ = false;

  // Table I of the data sheet, "UART Reset Configuration". The divisor has no reset value there: 12 is 9600 baud.
  std::uint8_t ier_ = 0;
  std::uint8_t fcr_ = 0;
  std::uint8_t lcr_ = 0;
  std::uint8_t mcr_ = 0;
  std::uint8_t scr_ = 0;
  std::uint8_t divisor_low_ = 12;
  std::uint8_t divisor_high_ = 0;
  std::uint8_t line_errors_ = 0;            // LSR bits 1 to 4, until LSR is read
  std::uint8_t modem_changes_ = 0;          // MSR bits 0 to 3, until MSR is read
  bool transmitter_empty_pending_ = false;  // until IIR is read as the source or THR is written

  std::array<Entry, serial::kFifoBytes> received_{};  // a ring
  std::size_t received_first_ = 0;
  std::size_t received_count_ = 0;
};

}  // namespace nestbench::vmm
