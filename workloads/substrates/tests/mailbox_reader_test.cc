// The reader against a guest that writes what it likes.
#include "nestbench/substrates/mailbox_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

namespace nestbench::substrates {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kIterations = 100;

abi::MailboxRequest RequestFor(abi::Command command) {
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.command = command;
  request.sequence = 7;
  request.iterations = kIterations;
  return request;
}

// A good answer to a kRun; tests spoil one field each.
abi::MailboxReply GoodReply() {
  abi::MailboxReply reply = {};
  reply.sequence = 7;
  reply.status = abi::PayloadStatus::kOk;
  reply.tsc_begin = 1000;
  reply.tsc_end = 3000;
  reply.operations = kIterations;
  reply.bytes = 64;
  reply.checksum = 0xABCD;
  return reply;
}

vmm::Result<Reply> Read(const abi::MailboxReply& reply, abi::Command command = abi::Command::kRun) {
  abi::Mailbox mailbox = {};
  mailbox.request = RequestFor(command);
  mailbox.reply = reply;
  return ReadReply(std::as_bytes(std::span(&mailbox, 1)), mailbox.request);
}

void ExpectRefused(const abi::MailboxReply& reply, const char* what) {
  const auto read = Read(reply);
  ASSERT_FALSE(read.has_value()) << what;
  EXPECT_EQ(read.error().kind, vmm::ErrorKind::kMalformed);
  EXPECT_THAT(read.error().ToString(), HasSubstr(what));
}

TEST(MailboxReaderTest, TakesAGoodReply) {
  const auto read = Read(GoodReply());
  ASSERT_TRUE(read.has_value()) << read.error().ToString();
  EXPECT_EQ(read->status, abi::PayloadStatus::kOk);
  EXPECT_EQ(read->tsc_ticks, 2000U);
  EXPECT_EQ(read->operations, kIterations);
  EXPECT_EQ(read->bytes, 64U);
  EXPECT_EQ(read->checksum, 0xABCDU);
  EXPECT_TRUE(read->message.empty());
}

TEST(MailboxReaderTest, RefusesEveryPageThatIsTooShort) {
  const abi::Mailbox mailbox = {};
  const auto page = std::as_bytes(std::span(&mailbox, 1));
  for (std::size_t bytes = 0; bytes < sizeof(mailbox); ++bytes) {
    const auto read = ReadReply(page.first(bytes), RequestFor(abi::Command::kNone));
    ASSERT_FALSE(read.has_value()) << bytes;
    EXPECT_EQ(read.error().kind, vmm::ErrorKind::kMalformed);
  }
}

TEST(MailboxReaderTest, RefusesTheAnswerToAnotherCommand) {
  for (const std::uint64_t sequence : {std::uint64_t{0}, std::uint64_t{6}, std::uint64_t{8}, ~std::uint64_t{0}}) {
    abi::MailboxReply reply = GoodReply();
    reply.sequence = sequence;
    ExpectRefused(reply, "asked was 7");
  }
}

TEST(MailboxReaderTest, RefusesAnUnknownStatus) {
  for (const std::uint32_t status : {5U, 77U, 0x8000'0000U, ~0U}) {
    abi::MailboxReply reply = GoodReply();
    reply.status = static_cast<abi::PayloadStatus>(status);
    ExpectRefused(reply, "status");
  }
}

TEST(MailboxReaderTest, RefusesTimeStampsThatDoNotAdvance) {
  abi::MailboxReply reply = GoodReply();
  reply.tsc_end = reply.tsc_begin;
  ExpectRefused(reply, "time stamps");
  reply.tsc_end = reply.tsc_begin - 1;
  ExpectRefused(reply, "time stamps");
  reply.tsc_begin = ~std::uint64_t{0};
  reply.tsc_end = 0;
  ExpectRefused(reply, "time stamps");
}

TEST(MailboxReaderTest, RefusesFewerOperationsThanWereAskedFor) {
  abi::MailboxReply reply = GoodReply();
  reply.operations = kIterations - 1;
  ExpectRefused(reply, "operations");
  reply.operations = 0;
  ExpectRefused(reply, "operations");
}

TEST(MailboxReaderTest, TakesTheLargestNumbersAsTheyAre) {
  abi::MailboxReply reply = GoodReply();
  reply.tsc_begin = 0;
  reply.tsc_end = reply.operations = reply.bytes = reply.checksum = std::numeric_limits<std::uint64_t>::max();
  const auto read = Read(reply);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->tsc_ticks, std::numeric_limits<std::uint64_t>::max());
}

TEST(MailboxReaderTest, AsksNothingOfTimesAndCountsUnlessABatchWentWell) {
  abi::MailboxReply reply = GoodReply();
  reply.tsc_begin = reply.tsc_end = reply.operations = 0;
  for (const abi::Command command : {abi::Command::kNone, abi::Command::kSetUp, abi::Command::kVerify}) {
    EXPECT_TRUE(Read(reply, command).has_value());
  }
  reply.status = abi::PayloadStatus::kWrongResult;
  const auto read = Read(reply);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->status, abi::PayloadStatus::kWrongResult);
}

TEST(MailboxReaderTest, ReadsAMessageWithoutAnEndOnlyToTheEndOfItsField) {
  abi::MailboxReply reply = GoodReply();
  reply.status = abi::PayloadStatus::kBadRequest;
  std::memset(reply.message, 'x', sizeof(reply.message));
  const auto read = Read(reply);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->message, std::string(abi::kMailboxMessageBytes, 'x'));
}

TEST(MailboxReaderTest, MakesAMessagePrintable) {
  abi::MailboxReply reply = GoodReply();
  reply.status = abi::PayloadStatus::kWrongResult;
  std::strcpy(reply.message, "a\x1B[2Jb\n\x80\xFFz");  // terminal escapes, a line end, no UTF-8
  const auto read = Read(reply);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->message, "a?[2Jb???z");
}

TEST(MailboxReaderTest, DropsTheMessageOfAReplyThatWentWell) {
  abi::MailboxReply reply = GoodReply();
  std::strcpy(reply.message, "all is well");
  const auto read = Read(reply);
  ASSERT_TRUE(read.has_value());
  EXPECT_TRUE(read->message.empty());
}

}  // namespace
}  // namespace nestbench::substrates
