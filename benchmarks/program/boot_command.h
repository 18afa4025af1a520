// `nestbench boot`: a Linux kernel in our machine, its console on the terminal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nestbench::program {

struct BootRequest {
  std::string kernel;
  std::string initramfs;                 // empty: none
  std::vector<std::string> disks;        // FILE[,direct][,ro]
  std::vector<std::uint64_t> ram_disks;  // bytes
  std::vector<std::string> nets;         // tap:NAME, switch
  std::uint32_t vcpus = 1;
  std::uint64_t memory_bytes = 512ULL << 20;
  std::string append;
  std::string timeline;           // a file for when the console said what; empty: none
  double timeout_s = 0;           // 0: none
  bool exit_doorbells = false;    // each doorbell leaves to this process, instead of an ioeventfd
  bool ioctl_interrupts = false;  // each interrupt is an ioctl, instead of an irqfd
  double poll_us = 0;             // device threads ask for so long before they sleep
  bool balloon = false;
  bool quiet = false;  // no summary
};

// Returns the exit code: 0 the guest switched off or reset itself, 1 it did not within the time, 2 usage, 5 this host
// cannot run it, 6 something broke, 128+n it was stopped by signal n.
int Boot(const BootRequest& request);

}  // namespace nestbench::program
