// The threads of virtio devices, without threads: a fuzz program that links this gets a Worker (core/worker.h) that
// runs only when it is told to, in the caller's thread. The same bytes then do the same thing each time, and fast.
//
// It wakes a device for what would wake a thread: its start, a doorbell, a descriptor with news. A device that sleeps
// without having asked for a doorbell is never called again here either.
#pragma once

namespace nestbench::vmm::virtio {

// Lets every device that has a reason to wake work until it would sleep, or for `rounds` calls. Whether one has more to
// do.
bool RunWorkers(unsigned rounds);

}  // namespace nestbench::vmm::virtio
