// How a documented condition becomes a test: a GoogleTest of its own, with the area it belongs to and the text that it
// was taken from. Each test runs in a process of its own (main.cc), so it may crash, hang or leave anything behind.
//
//   NESTBENCH_CONDITION(kvm_api, MemorySlots, RefusesOverlap, "KVM API, KVM_SET_USER_MEMORY_REGION") { ... }
//
// A test passes, fails, or is skipped with GTEST_SKIP() << why: the capability, right or instruction that is missing.
// What it saw is told by Evidence(); values that do not decide anything belong there and not in a message.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <string_view>

namespace nestbench::conformance {

struct Condition {
  std::string_view area;    // kvm_api, cpu, isolation, robustness, nested_svm, nested_vmx
  std::string_view suite;   // MemorySlots
  std::string_view name;    // RefusesOverlap
  std::string_view source;  // document and section

  [[nodiscard]] std::string Id() const;          // kvm_api/MemorySlots.RefusesOverlap
  [[nodiscard]] std::string GoogleName() const;  // MemorySlots.RefusesOverlap
};

// Every condition of the program, in the order of their areas, suites and names.
std::span<const Condition> Conditions();

// What a test observed, for the checklist: "slots" -> "32764".
void Evidence(std::string_view key, std::string_view value);
void Evidence(std::string_view key, long long value);

namespace internal {
bool Register(const Condition& condition);  // true, so that it can initialize a constant
}

}  // namespace nestbench::conformance

#define NESTBENCH_CONDITION(area, suite, name, source)                              \
  [[maybe_unused]] const bool registered_##suite##_##name =                         \
      ::nestbench::conformance::internal::Register({#area, #suite, #name, source}); \
  TEST_F(suite, name)
