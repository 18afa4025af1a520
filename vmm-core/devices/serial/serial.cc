#include "devices/serial/serial.h"

#include <algorithm>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {

using namespace serial;  // register names, used on every line below

std::size_t Serial16550::Push(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (loopback()) return 0;
  const std::size_t taken = std::min(bytes.size(), capacity() - received_count_);
  for (const std::byte byte : bytes.first(taken)) Receive({std::to_integer<std::uint8_t>(byte), 0});
  UpdateIrq();
  return taken;
}

bool Serial16550::PushBreak() {
  const std::lock_guard lock(mutex_);
  if (loopback() || received_count_ == capacity()) return false;
  Receive({0, kLsrBreak});
  UpdateIrq();
  return true;
}

AccessStatus Serial16550::Read(std::uint64_t offset, std::span<std::byte> data) {
  if (offset >= kPortCount) return FailRead(data, AccessStatus::kBadOffset);
  if (data.size() != 1) return FailRead(data, AccessStatus::kBadWidth);
  const std::lock_guard lock(mutex_);
  std::uint8_t value = 0;
  switch (offset) {
    case kRbr:
      value = divisor_latch() ? divisor_low_ : ReadReceiver();
      break;
    case kIer:
      value = divisor_latch() ? divisor_high_ : ier_;
      break;
    case kIir:
      value = ReadIdentification();
      break;
    case kLcr:
      value = lcr_;
      break;
    case kMcr:
      value = mcr_;
      break;
    case kLsr:
      value = ReadLineStatus();
      break;
    case kMsr:
      value = ReadModemStatus();
      break;
    default:  // kScr: the offset was checked
      value = scr_;
      break;
  }
  data[0] = std::byte{value};
  UpdateIrq();
  return AccessStatus::kOk;
}

AccessStatus Serial16550::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset >= kPortCount) return AccessStatus::kBadOffset;
  if (data.size() != 1) return AccessStatus::kBadWidth;
  if (offset == kLsr || offset == kMsr) return AccessStatus::kReadOnly;
  const auto value = std::to_integer<std::uint8_t>(data[0]);
  const std::lock_guard lock(mutex_);
  switch (offset) {
    case kThr:
      if (divisor_latch()) {
        divisor_low_ = value;
      } else {
        WriteTransmitter(data[0]);
      }
      break;
    case kIer:
      if (divisor_latch()) {
        divisor_high_ = value;
      } else {
        WriteInterruptEnable(value);
      }
      break;
    case kFcr:
      WriteFifoControl(value);
      break;
    case kLcr:
      lcr_ = value;
      break;
    case kMcr:
      WriteModemControl(value);
      break;
    default:  // kScr
      scr_ = value;
      break;
  }
  UpdateIrq();
  return AccessStatus::kOk;
}

std::uint8_t Serial16550::ReadReceiver() {
  if (received_count_ == 0) return 0;
  const std::uint8_t value = received_[received_first_].value;
  received_first_ = (received_first_ + (Mutated("serial-fifo-skips-a-byte") ? 2 : 1)) % received_.size();
  --received_count_;
  ShowErrorsOfNext();
  return value;
}

std::uint8_t Serial16550::ReadIdentification() {
  const std::uint8_t pending = PendingInterrupt();
  // Table III, "Interrupt Reset Control": only when it is the one reported.
  if (pending == kIirTransmitterEmpty) transmitter_empty_pending_ = false;
  return static_cast<std::uint8_t>(pending | (fifos_enabled() ? kIirFifosEnabled : 0));
}

std::uint8_t Serial16550::ReadLineStatus() {
  std::uint8_t value = kLsrTransmitterHoldingEmpty | kLsrTransmitterEmpty | line_errors_;
  if (received_count_ != 0) value |= kLsrDataReady;
  if (fifos_enabled()) {
    bool error_waits = (line_errors_ & (kLsrParityError | kLsrFramingError | kLsrBreak)) != 0;
    for (std::size_t i = 0; i < received_count_; ++i) {
      error_waits = error_waits || received_[(received_first_ + i) % received_.size()].errors != 0;
    }
    if (error_waits) value |= kLsrErrorInFifo;
  }
  line_errors_ = 0;
  return value;
}

std::uint8_t Serial16550::ReadModemStatus() {
  const std::uint8_t value = ModemInputs() | modem_changes_;
  modem_changes_ = 0;
  return value;
}

void Serial16550::WriteTransmitter(std::byte value) {
  if (loopback()) {
    Receive({std::to_integer<std::uint8_t>(value), 0});
  } else {
    output_.Put({&value, 1});
  }
  // Writing clears the interrupt; the byte leaves at once, and THR being empty again raises it anew.
  transmitter_empty_pending_ = true;
}

void Serial16550::WriteInterruptEnable(std::uint8_t value) {
  const std::uint8_t before = ier_;
  ier_ = value & kIerMask;
  // Enabling it while THR is empty interrupts at once; drivers test for the chip's presence by that.
  if ((before & kIerTransmitterEmpty) == 0 && (ier_ & kIerTransmitterEmpty) != 0) transmitter_empty_pending_ = true;
}

void Serial16550::WriteFifoControl(std::uint8_t value) {
  // Bit 0: both FIFOs are cleared when the mode changes; while it is written as 0, the other bits are not programmed.
  const bool enable = (value & kFcrEnable) != 0;
  if (enable != fifos_enabled() || (enable && (value & kFcrResetReceiver) != 0)) ClearReceiver();
  fcr_ = enable ? static_cast<std::uint8_t>(value & ~(kFcrResetReceiver | kFcrResetTransmitter)) : std::uint8_t{0};
}

void Serial16550::WriteModemControl(std::uint8_t value) {
  const std::uint8_t before = ModemInputs();
  mcr_ = value & kMcrMask;
  const std::uint8_t after = ModemInputs();
  const std::uint8_t changed = before ^ after;
  if ((changed & kMsrCts) != 0) modem_changes_ |= kMsrDeltaCts;
  if ((changed & kMsrDsr) != 0) modem_changes_ |= kMsrDeltaDsr;
  if ((before & ~after & kMsrRing) != 0) modem_changes_ |= kMsrTrailingEdgeRing;
  if ((changed & kMsrDcd) != 0) modem_changes_ |= kMsrDeltaDcd;
}

std::uint8_t Serial16550::ModemInputs() const {
  if (!loopback()) return kMsrCts | kMsrDsr | kMsrDcd;
  std::uint8_t inputs = 0;
  if ((mcr_ & kMcrRts) != 0) inputs |= kMsrCts;
  if ((mcr_ & kMcrDtr) != 0) inputs |= kMsrDsr;
  if ((mcr_ & kMcrOut1) != 0) inputs |= kMsrRing;
  if ((mcr_ & kMcrOut2) != 0) inputs |= kMsrDcd;
  return inputs;
}

std::uint8_t Serial16550::PendingInterrupt() const {
  if ((ier_ & kIerLineStatus) != 0 && line_errors_ != 0) return kIirLineStatus;
  if ((ier_ & kIerReceivedData) != 0 && received_count_ != 0) {
    const bool at_trigger = !fifos_enabled() || received_count_ >= kTriggerBytes[fcr_ >> kFcrTriggerShift];
    return at_trigger ? kIirReceivedData : kIirCharacterTimeout;
  }
  if ((ier_ & kIerTransmitterEmpty) != 0 && transmitter_empty_pending_) return kIirTransmitterEmpty;
  if ((ier_ & kIerModemStatus) != 0 && modem_changes_ != 0) return kIirModemStatus;
  return kIirNone;
}

void Serial16550::Receive(Entry entry) {
  if (received_count_ == capacity()) {
    line_errors_ |= kLsrOverrunError;
    // Section "Line Status Register", bit 1: a full FIFO keeps what it has, the receiver buffer is overwritten.
    if (fifos_enabled()) return;
    received_count_ = 0;
  }
  received_[(received_first_ + received_count_) % received_.size()] = entry;
  ++received_count_;
  ShowErrorsOfNext();
}

void Serial16550::ShowErrorsOfNext() {
  if (received_count_ == 0) return;
  Entry& next = received_[received_first_];
  line_errors_ |= next.errors;
  next.errors = 0;
}

void Serial16550::ClearReceiver() {
  received_first_ = 0;
  received_count_ = 0;
}

void Serial16550::UpdateIrq() {
  const bool level = PendingInterrupt() != kIirNone;
  if (level == irq_level_) return;
  irq_level_ = level;
  if (level && Mutated("serial-interrupt-dropped")) return;
  irq_.Set(level);
}

}  // namespace nestbench::vmm
