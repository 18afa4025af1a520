// The guest hypervisors (L1) as flat binaries, for vmm::NestedOptions. Any thread; they live as long as the program.
#pragma once

#include <cstddef>
#include <span>

namespace nestbench::hypervisors {

// With AMD's SVM.
std::span<const std::byte> Svm();

// With Intel's VMX.
std::span<const std::byte> Vmx();

}  // namespace nestbench::hypervisors
