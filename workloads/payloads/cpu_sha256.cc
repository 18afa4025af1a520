// SHA-256 in software (FIPS 180-4, "Secure Hash Standard", sections 4.1.2, 4.2.2, 5.1.1 and 6.2.2; no SHA
// instructions). Unit: MB/s of message, higher is better. One iteration hashes a message of 4096 bytes whose first 32
// bytes are the digest before; the padding block is work, but not counted in bytes. One operation (0); no parameters,
// no arena.
//
// Checked against the standard's example "abc" and against a second hash of the whole chain.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kBlockBytes = 64;
constexpr std::uint64_t kMessageBytes = 4096;
constexpr std::uint64_t kDigestWords = 8;

constexpr std::uint32_t kRoundConstants[64] = {
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
    0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
    0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
    0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
    0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
    0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2};

constexpr std::uint32_t kInitial[kDigestWords] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                                  0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

// SHA-256("abc"): the one-block example that NIST publishes with the standard.
constexpr std::uint32_t kDigestOfAbc[kDigestWords] = {0xBA7816BF, 0x8F01CFEA, 0x414140DE, 0x5DAE2223,
                                                      0xB00361A3, 0x96177A9C, 0xB410FF61, 0xF20015AD};

constexpr std::uint32_t RotateRight(std::uint32_t x, int n) { return x >> n | x << (32 - n); }

void Compress(std::uint32_t* state, const unsigned char* block) {
  std::uint32_t w[64];
  for (int t = 0; t < 16; ++t) {
    std::uint32_t word = 0;
    __builtin_memcpy(&word, block + 4 * t, 4);
    w[t] = __builtin_bswap32(word);
  }
  for (int t = 16; t < 64; ++t) {
    const std::uint32_t s0 = RotateRight(w[t - 15], 7) ^ RotateRight(w[t - 15], 18) ^ (w[t - 15] >> 3);
    const std::uint32_t s1 = RotateRight(w[t - 2], 17) ^ RotateRight(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = s1 + w[t - 7] + s0 + w[t - 16];
  }
  std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (int t = 0; t < 64; ++t) {
    const std::uint32_t sum1 = RotateRight(e, 6) ^ RotateRight(e, 11) ^ RotateRight(e, 25);
    const std::uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + kRoundConstants[t] + w[t];
    const std::uint32_t sum0 = RotateRight(a, 2) ^ RotateRight(a, 13) ^ RotateRight(a, 22);
    const std::uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const std::uint32_t last[kDigestWords] = {a, b, c, d, e, f, g, h};
  for (std::uint64_t i = 0; i < kDigestWords; ++i) state[i] += last[i];
}

void Hash(const unsigned char* message, std::uint64_t bytes, std::uint32_t* digest) {
  for (std::uint64_t i = 0; i < kDigestWords; ++i) digest[i] = kInitial[i];
  std::uint64_t done = 0;
  for (; bytes - done >= kBlockBytes; done += kBlockBytes) Compress(digest, message + done);
  unsigned char tail[2 * kBlockBytes] = {};
  const std::uint64_t rest = bytes - done;
  for (std::uint64_t i = 0; i < rest; ++i) tail[i] = message[done + i];
  tail[rest] = 0x80;
  const std::uint64_t tail_bytes = rest + 9 <= kBlockBytes ? kBlockBytes : 2 * kBlockBytes;
  const std::uint64_t bits = __builtin_bswap64(bytes * 8);
  __builtin_memcpy(tail + tail_bytes - 8, &bits, 8);
  for (std::uint64_t i = 0; i < tail_bytes; i += kBlockBytes) Compress(digest, tail + i);
}

bool AreEqual(const std::uint32_t* a, const std::uint32_t* b) {
  bool equal = true;
  for (std::uint64_t i = 0; i < kDigestWords; ++i) equal = equal && a[i] == b[i];
  return equal;
}

constinit unsigned char g_message[kMessageBytes]{};
constinit std::uint32_t g_digest[kDigestWords]{};

// The message is a function of the seed, its head excepted; a chain starts with a head of zeros.
void FillMessage(std::uint64_t seed) {
  Random random(seed);
  for (std::uint64_t i = 0; i < kMessageBytes; i += 8) {
    const std::uint64_t word = i < sizeof(g_digest) ? 0 : random.Next();
    __builtin_memcpy(g_message + i, &word, 8);
  }
}

void HashChain(std::uint64_t iterations, std::uint32_t* digest) {
  for (std::uint64_t i = iterations; i != 0; --i) {
    Hash(g_message, kMessageBytes, digest);
    __builtin_memcpy(g_message, digest, sizeof(g_digest));
    asm volatile("" : : : "memory");
  }
}

std::uint64_t Checksum() { return static_cast<std::uint64_t>(g_digest[0]) << 32 | g_digest[1]; }

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "cpu_sha256: operation must be 0");
  std::uint32_t digest[kDigestWords];
  Hash(reinterpret_cast<const unsigned char*>("abc"), 3, digest);
  if (!AreEqual(digest, kDigestOfAbc)) {
    result.Fail(Status::kWrongResult, "cpu_sha256: the digest of \"abc\" is not that of FIPS 180-4");
  }
}

void Run(const Args& args, Result& result) {
  FillMessage(args.seed);
  result.Begin();
  HashChain(args.iterations, g_digest);
  result.End();
  result.SetOperations(args.iterations);
  result.SetBytes(args.iterations * kMessageBytes);
  result.SetChecksum(Checksum());
}

void Verify(const Args& args, Result& result) {
  std::uint32_t digest[kDigestWords];
  FillMessage(args.seed);
  HashChain(args.iterations, digest);
  if (!AreEqual(digest, g_digest)) {
    result.Fail(Status::kWrongResult, "cpu_sha256: a second hash of the chain gives another digest");
  }
  result.SetChecksum(Checksum());
}

}  // namespace nestbench::payload
