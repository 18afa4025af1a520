#include "nestbench/vmm/digest/sha256.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace nestbench::vmm {
namespace {

std::string Digest(std::string_view text) {
  const auto digest = Sha256Hex(std::as_bytes(std::span(text)));
  return digest ? *digest : digest.error().ToString();
}

// NIST, "Cryptographic Standards and Guidelines: Example Values", SHA-256; the million bytes are of FIPS 180-2's
// appendix.
TEST(Sha256Test, GivesThePublishedDigests) {
  EXPECT_EQ(Digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Digest(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, TellsAnyTwoBytesApart) {
  EXPECT_NE(Digest(std::string_view("\0", 1)), Digest(std::string_view("\1", 1)));
}

}  // namespace
}  // namespace nestbench::vmm
