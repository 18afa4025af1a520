// Registers of one PC16550D. Source: National Semiconductor, "PC16550D Universal Asynchronous Receiver/Transmitter with
// FIFOs" data sheet, section "Registers" (Table I, "UART Reset Configuration"; Table II, "Summary of Registers"; Table
// III, "Interrupt Control Functions" for the identification codes). All registers are one byte wide.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::vmm::serial {

inline constexpr std::uint64_t kPortCount = 8;
inline constexpr std::size_t kFifoBytes = 16;

// Offsets. With LCR's DLAB set, 0 and 1 are the divisor latch.
inline constexpr std::uint64_t kRbr = 0;  // RO receiver buffer
inline constexpr std::uint64_t kThr = 0;  // WO transmitter holding
inline constexpr std::uint64_t kIer = 1;  // RW interrupt enable
inline constexpr std::uint64_t kIir = 2;  // RO interrupt identification
inline constexpr std::uint64_t kFcr = 2;  // WO FIFO control
inline constexpr std::uint64_t kLcr = 3;  // RW line control
inline constexpr std::uint64_t kMcr = 4;  // RW modem control
inline constexpr std::uint64_t kLsr = 5;  // RO line status (writing it is for factory testing)
inline constexpr std::uint64_t kMsr = 6;  // RO modem status
inline constexpr std::uint64_t kScr = 7;  // RW scratch
inline constexpr std::uint64_t kDll = 0;  // RW divisor latch, low byte
inline constexpr std::uint64_t kDlm = 1;  // RW divisor latch, high byte

// Section "Interrupt Enable Register". Bits 4 to 7 are always 0.
inline constexpr std::uint8_t kIerReceivedData = 1U << 0;
inline constexpr std::uint8_t kIerTransmitterEmpty = 1U << 1;
inline constexpr std::uint8_t kIerLineStatus = 1U << 2;
inline constexpr std::uint8_t kIerModemStatus = 1U << 3;
inline constexpr std::uint8_t kIerMask = 0x0F;

// Section "Interrupt Identification Register". Bit 0 is 0 while an interrupt is pending.
inline constexpr std::uint8_t kIirNone = 0x01;
inline constexpr std::uint8_t kIirLineStatus = 0x06;        // first priority
inline constexpr std::uint8_t kIirReceivedData = 0x04;      // second
inline constexpr std::uint8_t kIirCharacterTimeout = 0x0C;  // second, FIFO mode only
inline constexpr std::uint8_t kIirTransmitterEmpty = 0x02;  // third
inline constexpr std::uint8_t kIirModemStatus = 0x00;       // fourth
inline constexpr std::uint8_t kIirFifosEnabled = 0xC0;

// Section "FIFO Control Register".
inline constexpr std::uint8_t kFcrEnable = 1U << 0;
inline constexpr std::uint8_t kFcrResetReceiver = 1U << 1;     // clears itself
inline constexpr std::uint8_t kFcrResetTransmitter = 1U << 2;  // clears itself
inline constexpr unsigned kFcrTriggerShift = 6;                // 0 to 3: 1, 4, 8 or 14 bytes
inline constexpr std::uint8_t kTriggerBytes[4] = {1, 4, 8, 14};

// Section "Line Control Register".
inline constexpr std::uint8_t kLcrDivisorLatch = 1U << 7;

// Section "MODEM Control Register". Bits 5 to 7 are always 0.
inline constexpr std::uint8_t kMcrDtr = 1U << 0;
inline constexpr std::uint8_t kMcrRts = 1U << 1;
inline constexpr std::uint8_t kMcrOut1 = 1U << 2;
inline constexpr std::uint8_t kMcrOut2 = 1U << 3;
inline constexpr std::uint8_t kMcrLoop = 1U << 4;
inline constexpr std::uint8_t kMcrMask = 0x1F;

// Section "Line Status Register".
inline constexpr std::uint8_t kLsrDataReady = 1U << 0;
inline constexpr std::uint8_t kLsrOverrunError = 1U << 1;
inline constexpr std::uint8_t kLsrParityError = 1U << 2;
inline constexpr std::uint8_t kLsrFramingError = 1U << 3;
inline constexpr std::uint8_t kLsrBreak = 1U << 4;
inline constexpr std::uint8_t kLsrTransmitterHoldingEmpty = 1U << 5;
inline constexpr std::uint8_t kLsrTransmitterEmpty = 1U << 6;
inline constexpr std::uint8_t kLsrErrorInFifo = 1U << 7;

// Section "MODEM Status Register". The lower half says what changed since the last read.
inline constexpr std::uint8_t kMsrDeltaCts = 1U << 0;
inline constexpr std::uint8_t kMsrDeltaDsr = 1U << 1;
inline constexpr std::uint8_t kMsrTrailingEdgeRing = 1U << 2;
inline constexpr std::uint8_t kMsrDeltaDcd = 1U << 3;
inline constexpr std::uint8_t kMsrCts = 1U << 4;
inline constexpr std::uint8_t kMsrDsr = 1U << 5;
inline constexpr std::uint8_t kMsrRing = 1U << 6;
inline constexpr std::uint8_t kMsrDcd = 1U << 7;

}  // namespace nestbench::vmm::serial
