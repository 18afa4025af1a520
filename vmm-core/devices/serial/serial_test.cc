#include "devices/serial/serial.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace nestbench::vmm {
namespace {

using namespace serial;

class CallbackIrqLine final : public IrqLine {
 public:
  explicit CallbackIrqLine(std::function<void(bool)> callback) : callback_(std::move(callback)) {}
  void Set(bool level) override { callback_(level); }

 private:
  std::function<void(bool)> callback_;
};

class StringSink final : public ByteSink {
 public:
  void Put(std::span<const std::byte> bytes) override {
    for (const std::byte byte : bytes) text += static_cast<char>(byte);
  }
  std::string text;
};

class SerialTest : public testing::Test {
 protected:
  std::uint8_t Get(std::uint64_t offset) {
    std::array<std::byte, 1> data{};
    EXPECT_EQ(serial_.Read(offset, data), AccessStatus::kOk) << offset;
    return std::to_integer<std::uint8_t>(data[0]);
  }

  void Set(std::uint64_t offset, unsigned value) {
    const std::array<std::byte, 1> data{std::byte{static_cast<std::uint8_t>(value)}};
    EXPECT_EQ(serial_.Write(offset, data), AccessStatus::kOk) << offset;
  }

  std::size_t Push(const std::string& text) { return serial_.Push(std::as_bytes(std::span(text))); }

  // What a driver reads, without the FIFO bits.
  std::uint8_t Cause() { return Get(kIir) & static_cast<std::uint8_t>(~kIirFifosEnabled); }

  bool level_ = false;
  int raised_ = 0;
  CallbackIrqLine irq_{[this](bool level) {
    EXPECT_NE(level, level_) << "the line is set only when it changes";
    level_ = level;
    raised_ += level ? 1 : 0;
  }};
  StringSink output_;
  Serial16550 serial_{irq_, output_};
};

// Data sheet, Table I "UART Reset Configuration".
TEST_F(SerialTest, StartsAsTheDataSheetSays) {
  EXPECT_EQ(Get(kIer), 0x00);
  EXPECT_EQ(Get(kIir), 0x01);
  EXPECT_EQ(Get(kLcr), 0x00);
  EXPECT_EQ(Get(kMcr), 0x00);
  EXPECT_EQ(Get(kLsr), 0x60);
  EXPECT_EQ(Get(kMsr) & 0x0F, 0x00);
  EXPECT_FALSE(level_);
}

TEST_F(SerialTest, SendsWhatIsWrittenToTheTransmitter) {
  for (const char c : std::string("hello\n")) Set(kThr, static_cast<unsigned char>(c));
  EXPECT_EQ(output_.text, "hello\n");
  EXPECT_EQ(Get(kLsr), kLsrTransmitterHoldingEmpty | kLsrTransmitterEmpty);
}

TEST_F(SerialTest, SendsEveryByteValueUnchanged) {
  for (unsigned value = 0; value < 256; ++value) Set(kThr, value);
  ASSERT_EQ(output_.text.size(), 256U);
  for (unsigned value = 0; value < 256; ++value) EXPECT_EQ(static_cast<std::uint8_t>(output_.text[value]), value);
}

TEST_F(SerialTest, KeepsTheScratchRegister) {
  Set(kScr, 0xA5);
  EXPECT_EQ(Get(kScr), 0xA5);
}

TEST_F(SerialTest, KeepsTheLineControlRegister) {
  Set(kLcr, 0x7F);
  EXPECT_EQ(Get(kLcr), 0x7F);
}

TEST_F(SerialTest, KeepsOnlyTheImplementedBitsOfIerAndMcr) {
  Set(kIer, 0xF0);
  EXPECT_EQ(Get(kIer), 0x00);
  Set(kMcr, 0xEF);
  EXPECT_EQ(Get(kMcr), 0x0F);
}

TEST_F(SerialTest, ShowsTheDivisorLatchOnlyWhileDlabIsSet) {
  Set(kIer, kIerLineStatus);
  Set(kLcr, kLcrDivisorLatch);
  Set(kDll, 0x34);
  Set(kDlm, 0x12);
  EXPECT_EQ(Get(kDll), 0x34);
  EXPECT_EQ(Get(kDlm), 0x12);
  Set(kLcr, 0x03);
  EXPECT_EQ(Get(kIer), kIerLineStatus);
  EXPECT_EQ(Get(kRbr), 0x00);
  EXPECT_EQ(output_.text, "");
}

TEST_F(SerialTest, RefusesWritesToTheStatusRegisters) {
  constexpr std::array<std::byte, 1> kValue{std::byte{0xFF}};
  EXPECT_EQ(serial_.Write(kLsr, kValue), AccessStatus::kReadOnly);
  EXPECT_EQ(serial_.Write(kMsr, kValue), AccessStatus::kReadOnly);
  EXPECT_EQ(Get(kLsr), 0x60);
  EXPECT_EQ(Get(kMsr) & 0x0F, 0x00);
}

TEST_F(SerialTest, RefusesEveryWidthButOneAtEveryRegisterAndChangesNothing) {
  std::array<std::byte, 16> data{};
  for (std::uint64_t offset = 0; offset < kPortCount; ++offset) {
    for (const std::size_t width : {0U, 2U, 3U, 4U, 8U, 16U}) {
      data.fill(std::byte{0});
      EXPECT_EQ(serial_.Write(offset, std::span(data).first(width)), AccessStatus::kBadWidth);
      EXPECT_EQ(serial_.Read(offset, std::span(data).first(width)), AccessStatus::kBadWidth);
      for (std::size_t i = 0; i < width; ++i) EXPECT_EQ(data[i], std::byte{0xFF});
    }
  }
  EXPECT_EQ(output_.text, "");
  EXPECT_EQ(Get(kIer), 0);
}

TEST_F(SerialTest, RefusesOffsetsPastItsEightPorts) {
  std::array<std::byte, 1> data{};
  for (const std::uint64_t offset : {std::uint64_t{8}, std::uint64_t{9}, std::uint64_t{1} << 32, ~std::uint64_t{0}}) {
    EXPECT_EQ(serial_.Read(offset, data), AccessStatus::kBadOffset);
    EXPECT_EQ(data[0], std::byte{0xFF});
    EXPECT_EQ(serial_.Write(offset, data), AccessStatus::kBadOffset);
  }
}

TEST_F(SerialTest, InterruptsAtOnceWhenTheTransmitterInterruptIsEnabled) {
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_TRUE(level_);
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
}

TEST_F(SerialTest, ClearsTheTransmitterInterruptWhenItsIdentificationIsRead) {
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
  EXPECT_FALSE(level_);
  EXPECT_EQ(Cause(), kIirNone);
}

TEST_F(SerialTest, RaisesTheTransmitterInterruptAgainAfterEachByte) {
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
  Set(kThr, 'x');
  EXPECT_TRUE(level_);
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
  EXPECT_FALSE(level_);
  EXPECT_EQ(raised_, 2);
}

TEST_F(SerialTest, KeepsTheTransmitterInterruptWhenAHigherOneIsIdentified) {
  Set(kIer, kIerTransmitterEmpty | kIerReceivedData);
  ASSERT_EQ(Push("a"), 1U);
  EXPECT_EQ(Cause(), kIirReceivedData);
  EXPECT_EQ(Get(kRbr), 'a');
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
  EXPECT_EQ(Cause(), kIirNone);
}

TEST_F(SerialTest, RewritingIerDoesNotRaiseTheTransmitterInterruptAnew) {
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_FALSE(level_);
  Set(kIer, 0);
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_TRUE(level_);
}

TEST_F(SerialTest, DropsTheLineWhenTheInterruptIsMasked) {
  Set(kIer, kIerTransmitterEmpty);
  EXPECT_TRUE(level_);
  Set(kIer, 0);
  EXPECT_FALSE(level_);
  EXPECT_EQ(Cause(), kIirNone);
}

TEST_F(SerialTest, ReceivesOneByteAtATimeWithoutFifos) {
  Set(kIer, kIerReceivedData);
  EXPECT_EQ(Push("ab"), 1U);
  EXPECT_TRUE(level_);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, kLsrDataReady);
  EXPECT_EQ(Get(kIir), kIirReceivedData);
  EXPECT_EQ(Get(kRbr), 'a');
  EXPECT_FALSE(level_);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
  EXPECT_EQ(Push("b"), 1U);
  EXPECT_EQ(Get(kRbr), 'b');
}

TEST_F(SerialTest, ReceivesWithoutAnInterruptWhenItIsMasked) {
  EXPECT_EQ(Push("a"), 1U);
  EXPECT_FALSE(level_);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, kLsrDataReady);
}

TEST_F(SerialTest, ReadsZeroFromAnEmptyReceiver) { EXPECT_EQ(Get(kRbr), 0); }

TEST_F(SerialTest, ReportsEnabledFifosInIir) {
  Set(kFcr, kFcrEnable);
  EXPECT_EQ(Get(kIir), kIirFifosEnabled | kIirNone);
  Set(kFcr, 0);
  EXPECT_EQ(Get(kIir), kIirNone);
}

TEST_F(SerialTest, TakesSixteenBytesIntoTheFifoInOrder) {
  Set(kFcr, kFcrEnable);
  EXPECT_EQ(Push("0123456789abcdefgh"), 16U);
  EXPECT_EQ(Push("x"), 0U);
  for (const char c : std::string("0123456789abcdef")) EXPECT_EQ(Get(kRbr), c);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
}

TEST_F(SerialTest, KeepsTheOrderWhenTheFifoWrapsAround) {
  Set(kFcr, kFcrEnable);
  for (int round = 0; round < 7; ++round) {
    EXPECT_EQ(Push("0123456789"), 10U);
    for (const char c : std::string("0123456789")) EXPECT_EQ(Get(kRbr), c);
  }
}

// Section "FIFO Interrupt Mode Operation": the trigger level tells received data from a character timeout.
TEST_F(SerialTest, TellsTheTriggerLevelFromACharacterTimeout) {
  Set(kIer, kIerReceivedData);
  for (unsigned level = 0; level < 4; ++level) {
    Set(kFcr, kFcrEnable | kFcrResetReceiver | (level << kFcrTriggerShift));
    const std::size_t trigger = kTriggerBytes[level];
    if (trigger > 1) {
      EXPECT_EQ(Push(std::string(trigger - 1, 'a')), trigger - 1);
      EXPECT_EQ(Cause(), kIirCharacterTimeout) << trigger;
      EXPECT_TRUE(level_);
    }
    EXPECT_EQ(Push("b"), 1U);
    EXPECT_EQ(Cause(), kIirReceivedData) << trigger;
    EXPECT_EQ(Get(kRbr), trigger > 1 ? 'a' : 'b');
    EXPECT_EQ(Cause(), trigger > 1 ? kIirCharacterTimeout : kIirNone) << trigger;
  }
}

TEST_F(SerialTest, ClearsTheReceiverByFcrAndDropsTheInterrupt) {
  Set(kFcr, kFcrEnable);
  Set(kIer, kIerReceivedData);
  EXPECT_EQ(Push("abc"), 3U);
  EXPECT_TRUE(level_);
  Set(kFcr, kFcrEnable | kFcrResetReceiver);
  EXPECT_FALSE(level_);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
}

TEST_F(SerialTest, ClearsTheFifosWhenTheModeChanges) {
  Set(kFcr, kFcrEnable);
  EXPECT_EQ(Push("abc"), 3U);
  Set(kFcr, 0);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
}

TEST_F(SerialTest, IgnoresTheResetBitWhileFifosAreNotEnabled) {
  EXPECT_EQ(Push("a"), 1U);
  Set(kFcr, kFcrResetReceiver);
  EXPECT_EQ(Get(kRbr), 'a');
}

TEST_F(SerialTest, RaisesTheLineStatusInterruptFirstForABreak) {
  Set(kFcr, kFcrEnable);
  Set(kIer, kIerLineStatus | kIerReceivedData | kIerTransmitterEmpty);
  EXPECT_TRUE(serial_.PushBreak());
  EXPECT_EQ(Cause(), kIirLineStatus);
  EXPECT_EQ(Get(kLsr),
            kLsrErrorInFifo | kLsrTransmitterEmpty | kLsrTransmitterHoldingEmpty | kLsrBreak | kLsrDataReady);
  EXPECT_EQ(Cause(), kIirReceivedData) << "reading LSR clears the line status interrupt";
  EXPECT_EQ(Get(kLsr) & (kLsrBreak | kLsrErrorInFifo), 0);
  EXPECT_EQ(Get(kRbr), 0);
  EXPECT_EQ(Cause(), kIirTransmitterEmpty);
}

// Section "Line Status Register": an error is revealed when its character is at the top of the FIFO.
TEST_F(SerialTest, ShowsABreakOnlyOnceItsCharacterIsNext) {
  Set(kFcr, kFcrEnable);
  Set(kIer, kIerLineStatus);
  EXPECT_EQ(Push("a"), 1U);
  EXPECT_TRUE(serial_.PushBreak());
  EXPECT_FALSE(level_);
  EXPECT_EQ(Get(kLsr) & (kLsrBreak | kLsrErrorInFifo), kLsrErrorInFifo);
  EXPECT_EQ(Get(kRbr), 'a');
  EXPECT_TRUE(level_);
  EXPECT_EQ(Get(kLsr) & (kLsrBreak | kLsrErrorInFifo), kLsrBreak | kLsrErrorInFifo);
}

TEST_F(SerialTest, HasNoRoomForABreakWhenTheReceiverIsFull) {
  EXPECT_EQ(Push("a"), 1U);
  EXPECT_FALSE(serial_.PushBreak());
}

TEST_F(SerialTest, LoopsTheTransmitterBackAndKeepsItFromTheLine) {
  Set(kMcr, kMcrLoop);
  Set(kThr, 'z');
  EXPECT_EQ(output_.text, "");
  EXPECT_EQ(Get(kRbr), 'z');
  Set(kMcr, 0);
  Set(kThr, 'y');
  EXPECT_EQ(output_.text, "y");
}

TEST_F(SerialTest, CutsTheInputOffInLoopback) {
  Set(kMcr, kMcrLoop);
  EXPECT_EQ(Push("a"), 0U);
  EXPECT_FALSE(serial_.PushBreak());
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
}

TEST_F(SerialTest, MirrorsModemControlInModemStatusInLoopback) {
  const std::pair<unsigned, unsigned> pairs[] = {
      {kMcrRts, kMsrCts}, {kMcrDtr, kMsrDsr}, {kMcrOut1, kMsrRing}, {kMcrOut2, kMsrDcd}};
  for (const auto& [control, status] : pairs) {
    Set(kMcr, kMcrLoop | control);
    EXPECT_EQ(Get(kMsr) & 0xF0U, status);
  }
}

TEST_F(SerialTest, ShowsAReadyTerminalOutsideLoopback) { EXPECT_EQ(Get(kMsr), kMsrCts | kMsrDsr | kMsrDcd); }

TEST_F(SerialTest, RaisesTheModemStatusInterruptLastAndClearsItByReadingMsr) {
  Set(kMcr, kMcrLoop);
  EXPECT_EQ(Get(kMsr) & 0x0F, kMsrDeltaCts | kMsrDeltaDsr | kMsrDeltaDcd);
  Set(kIer, kIerModemStatus | kIerReceivedData);
  EXPECT_FALSE(level_);
  Set(kMcr, kMcrLoop | kMcrRts);
  EXPECT_EQ(Cause(), kIirModemStatus);
  Set(kThr, 'a');
  EXPECT_EQ(Cause(), kIirReceivedData);
  EXPECT_EQ(Get(kRbr), 'a');
  EXPECT_EQ(Cause(), kIirModemStatus) << "reading IIR does not clear it";
  EXPECT_EQ(Get(kMsr), kMsrCts | kMsrDeltaCts);
  EXPECT_FALSE(level_);
  EXPECT_EQ(Get(kMsr), kMsrCts);
}

TEST_F(SerialTest, ReportsOnlyTheTrailingEdgeOfRing) {
  Set(kMcr, kMcrLoop);
  Get(kMsr);
  Set(kMcr, kMcrLoop | kMcrOut1);
  EXPECT_EQ(Get(kMsr), kMsrRing);
  Set(kMcr, kMcrLoop);
  EXPECT_EQ(Get(kMsr), kMsrTrailingEdgeRing);
}

TEST_F(SerialTest, OverwritesTheReceiverBufferOnAnOverrunWithoutFifos) {
  Set(kIer, kIerLineStatus);
  Set(kMcr, kMcrLoop);
  Set(kThr, 'a');
  Set(kThr, 'b');
  EXPECT_EQ(Cause(), kIirLineStatus);
  EXPECT_EQ(Get(kLsr) & kLsrOverrunError, kLsrOverrunError);
  EXPECT_FALSE(level_);
  EXPECT_EQ(Get(kLsr) & kLsrOverrunError, 0);
  EXPECT_EQ(Get(kRbr), 'b');
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
}

TEST_F(SerialTest, KeepsTheFifoAndDropsTheNewByteOnAnOverrun) {
  Set(kFcr, kFcrEnable);
  Set(kMcr, kMcrLoop);
  for (unsigned i = 0; i < 17; ++i) Set(kThr, 'a' + i);
  EXPECT_EQ(Get(kLsr) & (kLsrOverrunError | kLsrErrorInFifo), kLsrOverrunError);
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(Get(kRbr), 'a' + i);
  EXPECT_EQ(Get(kLsr) & kLsrDataReady, 0);
}

TEST_F(SerialTest, LosesNoByteWhenFedFromAnotherThread) {
  constexpr std::size_t kBytes = 20'000;
  Set(kFcr, kFcrEnable);
  std::atomic<bool> stop{false};
  std::thread feeder([this, &stop] {
    for (std::size_t sent = 0; sent < kBytes && !stop;) {
      const std::byte value{static_cast<std::uint8_t>(sent)};
      const std::size_t taken = serial_.Push({&value, 1});
      sent += taken;
      if (taken == 0) std::this_thread::yield();
    }
  });
  std::size_t received = 0;
  while (received < kBytes) {
    if ((Get(kLsr) & kLsrDataReady) == 0) {
      std::this_thread::yield();
      continue;
    }
    if (Get(kRbr) != static_cast<std::uint8_t>(received)) break;
    ++received;
  }
  stop = true;
  feeder.join();
  EXPECT_EQ(received, kBytes);
}

}  // namespace
}  // namespace nestbench::vmm
