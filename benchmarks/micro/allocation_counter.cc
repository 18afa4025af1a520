// Two mechanisms, one meaning. glibc lets a program define malloc itself and keeps its own under __libc_ names;
// AddressSanitizer owns malloc and calls a hook instead. Source: glibc manual, "Replacing malloc"; LLVM,
// sanitizer/allocator_interface.h.
#include "allocation_counter.h"

#include <atomic>
#include <cerrno>
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define NESTBENCH_COUNT_BY_HOOK 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NESTBENCH_COUNT_BY_HOOK 1
#endif
#endif

namespace nestbench::micro {
namespace {

// A mutable global: the allocator has nowhere else to count.
constinit std::atomic<std::uint64_t> g_allocations{0};

void Count() { g_allocations.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

#ifdef NESTBENCH_COUNT_BY_HOOK

extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                                         void (*on_free)(const volatile void*));

namespace {

void OnMalloc(const volatile void* /*block*/, std::size_t /*size*/) { Count(); }
void OnFree(const volatile void* /*block*/) {}

}  // namespace

std::uint64_t AllocationCount() {
  static const bool kInstalled = __sanitizer_install_malloc_and_free_hooks(OnMalloc, OnFree) != 0;
  // Without the hook nothing would ever be counted, and a count that rises by itself fails every expectation of none.
  if (!kInstalled) Count();
  return g_allocations.load(std::memory_order_relaxed);
}

#else

std::uint64_t AllocationCount() { return g_allocations.load(std::memory_order_relaxed); }

extern "C" {

void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t nmemb, std::size_t size);
void* __libc_realloc(void* ptr, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) noexcept {
  Count();
  return __libc_malloc(size);
}
void* calloc(std::size_t nmemb, std::size_t size) noexcept {
  Count();
  return __libc_calloc(nmemb, size);
}
void* realloc(void* ptr, std::size_t size) noexcept {
  Count();
  return __libc_realloc(ptr, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  Count();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  Count();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memptr, std::size_t alignment, std::size_t size) noexcept {
  Count();
  *memptr = __libc_memalign(alignment, size);
  return *memptr == nullptr ? ENOMEM : 0;
}

}  // extern "C"

#endif

}  // namespace nestbench::micro
