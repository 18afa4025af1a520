// iperf3's number out of its own document, and what is no such document.
#include "iperf3.h"

#include <gtest/gtest.h>

#include <string>

namespace nestbench::scenarios {
namespace {

TEST(Iperf3Test, TellsWhatArrivedAndNotWhatWasSent) {
  const auto rate = ParseIperf3(R"({"end":{"sum_sent":{"bytes":900,"seconds":1},
                                    "sum_received":{"bytes":300.0,"seconds":1.5,"lost_percent":66.7}}})");
  ASSERT_TRUE(rate.has_value()) << rate.error().ToString();
  EXPECT_DOUBLE_EQ(*rate, 200.0);
}

TEST(Iperf3Test, RefusesWhatIsNoSuchDocument) {
  for (const char* text :
       {"", "{", "[]", "{}", "null", R"({"error":"unable to connect to server"})",
        R"({"end":{"sum_received":{"bytes":0,"seconds":1}}})", R"({"end":{"sum_received":{"bytes":5}}})",
        R"({"end":{"sum_received":{"bytes":"5","seconds":1}}})", R"({"end":[1]})"}) {
    EXPECT_FALSE(ParseIperf3(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace nestbench::scenarios
