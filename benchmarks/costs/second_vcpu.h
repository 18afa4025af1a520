// A second processor of the guest, which sleeps until an interrupt and answers it in the handler of kFreeVector. It
// finds what a short handler has no room for: ECX, EDX and EAX hold what WRMSR needs for an end of interrupt of the
// x2APIC, and R14 holds kMovingPage, through which it loads each time that it has been woken.
#pragma once

#include <memory>
#include <string>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/machine/flat_machine.h"

namespace nestbench::costs {

class SecondVcpu {
 public:
  // For a machine with an enabled x2APIC, CPUID and small pages that has not run yet, and that outlives it. Starts a
  // thread.
  static vmm::Result<std::unique_ptr<SecondVcpu>> Start(vmm::FlatMachine& machine);

  SecondVcpu(const SecondVcpu&) = delete;
  SecondVcpu& operator=(const SecondVcpu&) = delete;
  ~SecondVcpu();  // ends the thread

  // What ended it for good, in one line; empty while it runs. Any thread.
  [[nodiscard]] std::string End() const;

 private:
  struct State;

  explicit SecondVcpu(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nestbench::costs
