// Fixtures of conditions that are observed in boxes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <variant>

#include "guest_box.h"

namespace nestbench::conformance {

// Makes boxes; what fails is the test's failure.
class BoxTest : public KvmTest {
 protected:
  std::optional<Box> MakeBox(BoxMode mode, const BoxOptions& options = {}) {
    auto box = Box::Create(device(), mode, options);
    if (box) return std::move(*box);
    ADD_FAILURE() << box.error().ToString();
    return std::nullopt;
  }

  // EXPECT that a healthy guest still runs.
  void ExpectAHealthyGuestRuns() {
    auto box = MakeBox(BoxMode::kReal16);
    if (!box) return;
    constexpr std::uint8_t kHello[] = {0xB0, 0x5A, 0xE6, 0x10, 0xF4};  // mov al, 0x5A; out 0x10, al; hlt
    box->Load(std::as_bytes(std::span(kHello)));
    const Box::Said said = box->RunToPort();
    EXPECT_TRUE(said.port == 0x10 && said.value == 0x5A) << "a fresh guest ends with " << said.text;
  }
};

// Boxes with code, and what it comes to.
class CodeTest : public BoxTest {
 protected:
  std::optional<Box> Start(BoxMode mode, std::span<const std::byte> code, const BoxOptions& options = {}) {
    auto box = MakeBox(mode, options);
    if (box) box->Load(code);
    return box;
  }

  // The guest writes to that port; else the test fails, or is skipped for the instruction that this KVM lacks.
  std::optional<std::uint32_t> Says(Box& box, std::uint16_t port = Box::kOpenPorts,
                                    std::chrono::milliseconds limit = std::chrono::seconds(2)) {
    const Box::Said said = box.RunToPort(limit);
    if (said.port == port) return said.value;
    if (!said.lacks_instruction) {
      std::string where;
      if (said.port == Box::kPanicPort) {
        const BoxException seen = box.Exception(said.value);
        where = ", error code " + std::to_string(seen.error_code) + ", at code + " +
                std::to_string(static_cast<std::int64_t>(seen.rip - Box::kCode));
      }
      ADD_FAILURE() << "expected port " << port << ", observed port " << said.port.value_or(0) << ' ' << said.text
                    << where;
      return std::nullopt;
    }
    SkipFor(said.text);
    return std::nullopt;
  }
  void ExpectSays(Box& box, std::uint32_t wanted, std::uint16_t port = Box::kOpenPorts) {
    const auto value = Says(box, port);
    if (value.has_value()) {
      EXPECT_EQ(*value, wanted);
    }
  }
  // Both vCPUs of a box say that port: its own, and one beside it that starts in the same state but for `change`.
  template <typename Change>
  bool SaysBeside(Box& box, Change change, std::uint16_t port = Box::kOpenPorts) {
    std::atomic<bool> is_ready = false;
    std::string sibling = "it did not run";
    std::thread thread([&] {
      auto vcpu = box.MakeSibling(1);
      auto regs = box.vcpu().GetRegs();
      if (regs) change(*regs);
      const bool is_made = vcpu && regs && vcpu->SetRegs(*regs);
      is_ready = true;
      if (!is_made) return;
      auto deadline = vmm::RunDeadline::Start(*vcpu, std::chrono::seconds(5));
      const auto exit = vcpu->Run();
      const auto* io = exit ? std::get_if<vmm::IoExit>(&*exit) : nullptr;
      const bool has_said = io != nullptr && io->port == port;
      sibling = has_said ? "" : exit ? vmm::ToString(*exit) : exit.error().ToString();
    });
    while (!is_ready) std::this_thread::yield();
    const bool has_said = Says(box, port, std::chrono::seconds(5)).has_value();
    thread.join();
    EXPECT_EQ(sibling, "") << "of the other vCPU";
    return has_said && sibling.empty();
  }

  // Likewise an exception, at that distance from kCode.
  void Raises(Box& box, unsigned vector, std::uint64_t error_code, std::uint64_t offset) {
    const auto value = Says(box, Box::kPanicPort);
    if (!value) return;
    EXPECT_EQ(*value, vector);
    const BoxException seen = box.Exception(*value);
    EXPECT_EQ(seen.error_code, error_code);
    EXPECT_EQ(seen.rip, Box::kCode + offset);
  }
};

// Boxes with code whose RBX says where it is to look, and whose RAX holds what no memory here does.
class PointedBoxTest : public BoxTest {
 protected:
  std::optional<Box> With(std::span<const std::byte> code, std::uint64_t rbx, BoxMode mode = BoxMode::kSupervisor64,
                          const BoxOptions& options = {}) {
    auto box = MakeBox(mode, options);
    if (!box) return box;
    box->Load(code);
    auto regs = box->vcpu().GetRegs();
    EXPECT_TRUE(regs);
    regs->rbx = rbx;
    regs->rax = 0x7777'7777'7777'7777;
    EXPECT_TRUE(box->vcpu().SetRegs(*regs));
    return box;
  }
};

}  // namespace nestbench::conformance
