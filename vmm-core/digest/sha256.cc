#include "nestbench/vmm/digest/sha256.h"

#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace nestbench::vmm {

Result<std::string> Sha256Hex(std::span<const std::byte> bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int digest_bytes = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &digest_bytes, EVP_sha256(), nullptr) != 1) {
    return Fail(
        Error::Unsupported("SHA-256", "OpenSSL refuses it; check openssl.cnf (openssl list -digest-algorithms)"));
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(std::size_t{2} * digest_bytes);
  for (unsigned int i = 0; i < digest_bytes; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 0xF];
  }
  return text;
}

}  // namespace nestbench::vmm
