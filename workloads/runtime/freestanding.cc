// The four functions that compilers call by themselves (GCC manual, section "Language Standards Supported by GCC";
// clang requires the same). As string instructions, because a loop written here could be compiled into a call of
// itself.
#include <cstddef>

extern "C" {

void* memcpy(void* destination, const void* source, std::size_t bytes) {
  void* to = destination;
  asm volatile("rep movsb" : "+D"(to), "+S"(source), "+c"(bytes) : : "memory");
  return destination;
}

void* memmove(void* destination, const void* source, std::size_t bytes) {
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  if (to <= from || to >= from + bytes) return memcpy(destination, source, bytes);
  to += bytes - 1;
  from += bytes - 1;
  asm volatile("std\n\trep movsb\n\tcld" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory", "cc");
  return destination;
}

void* memset(void* destination, int value, std::size_t bytes) {
  void* to = destination;
  asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
  return destination;
}

int memcmp(const void* left, const void* right, std::size_t bytes) {
  const auto* a = static_cast<const unsigned char*>(left);
  const auto* b = static_cast<const unsigned char*>(right);
  for (; bytes != 0; --bytes, ++a, ++b) {
    int difference = *a - *b;
    asm volatile("" : "+r"(difference));
    if (difference != 0) return difference;
  }
  return 0;
}
}
