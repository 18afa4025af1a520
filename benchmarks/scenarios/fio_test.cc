// fio's numbers out of its own document, and what is no such document.
#include "fio.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace nestbench::scenarios {
namespace {

constexpr const char* kSide =
    R"("total_ios":100,"iops":250000.5,"bw_bytes":1024000000,"clat_ns":{"percentile":{"50.000000":7000,"99.000000":21000,"99.900000":90000}})";
constexpr const char* kIdle = R"("total_ios":0,"iops":0,"bw_bytes":0,"clat_ns":{})";

std::string Document(const std::string& read, const std::string& write) {
  return "note: both iodepth >= 1 and so on\n{\"fio version\":\"fio-3.33\",\"jobs\":[{\"read\":{" + read +
         "},\"write\":{" + write + "}}]}";
}

TEST(FioTest, TellsTheSideThatMoved) {
  for (const std::string& text : {Document(kSide, kIdle), Document(kIdle, kSide)}) {
    const auto numbers = ParseFio(text);
    ASSERT_TRUE(numbers) << numbers.error().ToString();
    EXPECT_EQ(NumberOf(IoMetric::kIops, *numbers), 250.0005);
    EXPECT_EQ(NumberOf(IoMetric::kBandwidth, *numbers), 1024);
    EXPECT_EQ(NumberOf(IoMetric::kLatencyP50, *numbers), 7000);
    EXPECT_EQ(NumberOf(IoMetric::kLatencyP99, *numbers), 21'000);
    EXPECT_EQ(NumberOf(IoMetric::kLatencyP999, *numbers), 90'000);
    EXPECT_EQ(NumberOf(IoMetric::kCpu, *numbers), std::nullopt);
    EXPECT_EQ(NumberOf(IoMetric::kExits, *numbers), std::nullopt);
  }
}

TEST(FioTest, RefusesWhatIsNoDocumentOfAJobThatMovedSomething) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("fio: failed"), std::string("[]"), std::string("{}"),
        std::string(R"({"jobs":[]})"), std::string(R"({"jobs":{}})"), std::string(R"({"jobs":[1]})"),
        std::string(R"({"jobs":[{"read":7,"write":null}]})"), Document(kIdle, kIdle),
        Document(R"("total_ios":1,"iops":"many","bw_bytes":1)", kIdle)}) {
    EXPECT_FALSE(ParseFio(text)) << text;
  }
}

}  // namespace
}  // namespace nestbench::scenarios
