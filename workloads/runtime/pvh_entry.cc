// A second way into every image, for VMMs that know nothing of nestbench: the PVH boot protocol. `qemu-system-x86_64
// -kernel cpu_integer.elf` enters at PvhEntry, which the image's ELF note names, in 32-bit protected mode without
// paging. This file then builds by itself what our VMM writes from outside (identity-mapped page tables, descriptor
// tables, I/O permission bitmap), goes to CPL3, and calls the same Entry at the same addresses with the same mailbox.
//
// What it runs: SetUp, Run and Verify for the request that lies in the mailbox, when the VMM has put one there (its
// magic tells; QEMU: -device loader,file=REQUEST,addr=0x0f000000), else a small self-check: operation 0, 1000
// iterations, seed 1, no arena. What it says, on COM1, is one line:
//   nestbench-pvh operation=0 iterations=1000 seed=1 operations=1000 checksum=N status=ok
// with status ok, wrong-result, bad-request, unsupported or not-run, and a message for all but ok. Then it ends the
// machine: by QEMU's isa-debug-exit at port 0xF4 (exit code 33 for ok, 35 for anything else), by a reset through the
// keyboard controller where that port has no device, else by a triple fault.
//
// The guest needs memory up to 257 MiB, and up to the end of the arena when the request has one. There is no IDT: an
// exception is a triple fault, which VMMs report. Times are not measured this way.
//
// Sources: Xen's "x86/HVM direct boot ABI" (docs/misc/pvh) and public/elfnote.h; QEMU's documentation, "Direct Linux
// Boot"; AMD APM, volume 2, sections "Initializing Long Mode" and "I/O-Permission Bitmap"; 16550 data sheet.
//
// Everything here lies in a segment of its own behind the payload's, and nothing is merged with it: that an image can
// be booted this way does not move the code or the data of its payload. ../payloads/CMakeLists.txt compiles it
// accordingly.
#include "nestbench/abi/x86.h"
#include "nestbench/payload/payload.h"

namespace nestbench::payload {

extern "C" void Entry(abi::Mailbox* mailbox);

namespace {

using namespace abi::x86;

#define NESTBENCH_PVH_TEXT gnu::section(".pvh_text")
#define NESTBENCH_PVH_DATA gnu::section(".pvh_rodata")

// In the supervisor area, above the first MiB, where a PC has memory and the boot protocol leaves nothing of use.
constexpr std::uint32_t kTables = 0x20'0000;  // PML4, PDPT, four page directories
constexpr std::uint32_t kDirectoryPointers = kTables + 0x1000;
constexpr std::uint32_t kDirectories = kTables + 0x2000;
constexpr std::uint32_t kTss = kTables + 0x6000;
constexpr std::uint32_t kTssBytesUsed = kTssBytes + kIoPermissionBitmapBytes + 1;  // a byte of ones ends the bitmap
constexpr std::uint32_t kTablesEnd = kTss + 0x3000;
static_assert(kTss + kTssBytesUsed <= kTablesEnd && kTablesEnd <= abi::kSupervisorBase + abi::kSupervisorBytes);

constexpr std::uint32_t kTableEntry = kPtePresent | kPteWritable | kPteUser;
constexpr std::uint32_t kSupervisorPage = kPtePresent | kPteWritable | kPteLarge;
constexpr std::uint32_t kUserPage = kSupervisorPage | kPteUser;
constexpr std::uint32_t kUserBase = abi::kMailboxBase;
constexpr std::uint32_t kUserEnd = abi::kArenaBase + abi::kArenaMaxBytes;
constexpr std::uint32_t kDirectoryEntries = 4 * kPageTableEntries;  // 4 GiB

// QEMU, "isa-debug-exit": the exit code is twice the value written, plus one.
constexpr std::uint16_t kExitPort = 0xF4;
constexpr std::uint32_t kExitOk = 16;
constexpr std::uint32_t kExitNotOk = 17;
constexpr std::uint16_t kKeyboardPort = 0x64;  // 8042 command register
constexpr std::uint8_t kPulseReset = 0xFE;

// Segment descriptors as in AMD APM, section "Long-Mode Segment Descriptors", marked accessed.
constexpr std::uint64_t kTssDescriptor =
    (kTssBytesUsed - 1) | (std::uint64_t{kTss & 0xFF'FFFF} << 16) | (0x89ULL << 40) | (std::uint64_t{kTss >> 24} << 56);
extern "C" [[NESTBENCH_PVH_DATA, gnu::used]] constexpr std::uint64_t kPvhGdt[] = {
    0, kDescriptorCode64, kDescriptorData, kDescriptorUserData, kDescriptorUserCode64, kTssDescriptor, 0};
constexpr std::uint32_t kKernelCodeSelector = 0x08;
constexpr std::uint32_t kDataSelector = 0x10;
constexpr std::uint32_t kUserDataSelector = 0x18 | 3;
constexpr std::uint32_t kUserCodeSelector = 0x20 | 3;
constexpr std::uint32_t kTssSelector = 0x28;

constexpr std::uint32_t kXsaveOfLeaf1 = 1U << 26;  // ECX; AMD APM, volume 3, appendix "CPUID Fn0000_0001"
constexpr std::uint64_t kUserRegisters = kXcr0X87 | kXcr0Sse | kXcr0Avx | kXcr0Avx512;

// The serial port. Offsets and bits of a 16550.
constexpr std::uint16_t kLineStatus = abi::kSerialPort + 5;
constexpr std::uint8_t kTransmitterEmpty = 1 << 5;

[[NESTBENCH_PVH_DATA]] constexpr char kName[] = "nestbench-pvh operation=";
[[NESTBENCH_PVH_DATA]] constexpr char kIterations[] = " iterations=";
[[NESTBENCH_PVH_DATA]] constexpr char kSeed[] = " seed=";
[[NESTBENCH_PVH_DATA]] constexpr char kOperations[] = " operations=";
[[NESTBENCH_PVH_DATA]] constexpr char kChecksum[] = " checksum=";
[[NESTBENCH_PVH_DATA]] constexpr char kStatus[] = " status=";
[[NESTBENCH_PVH_DATA]] constexpr char kMessage[] = " message=";
constexpr std::size_t kWordBytes = 16;
[[NESTBENCH_PVH_DATA]] constexpr char kStatusWords[][kWordBytes] = {"not-run", "ok", "wrong-result", "bad-request",
                                                                    "unsupported"};

template <typename T>
[[NESTBENCH_PVH_TEXT]] inline T* At(std::uint64_t address) {
  return reinterpret_cast<T*>(address);
}

[[NESTBENCH_PVH_TEXT]] void OutByte(std::uint16_t port, std::uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "d"(port));
}

[[NESTBENCH_PVH_TEXT]] void PutChar(char c) {
  std::uint8_t status = 0;
  do {
    asm volatile("inb %1, %0" : "=a"(status) : "d"(kLineStatus));
  } while ((status & kTransmitterEmpty) == 0);
  OutByte(abi::kSerialPort, static_cast<std::uint8_t>(c));
}

[[NESTBENCH_PVH_TEXT]] void Put(const char* text) {
  for (; *text != '\0'; ++text) PutChar(*text);
}

[[NESTBENCH_PVH_TEXT]] void Put(std::uint64_t number) {
  std::uint64_t divisor = 1;
  while (number / divisor >= 10) divisor *= 10;
  for (; divisor != 0; divisor /= 10) PutChar(static_cast<char>('0' + number / divisor % 10));
}

[[NESTBENCH_PVH_TEXT]] void PutReport(const abi::MailboxRequest& request, const abi::MailboxReply& reply,
                                      std::uint64_t operations, std::uint64_t checksum) {
  Put(kName), Put(request.operation);
  Put(kIterations), Put(request.iterations);
  Put(kSeed), Put(request.seed);
  Put(kOperations), Put(operations);
  Put(kChecksum), Put(checksum);
  const auto status = static_cast<std::size_t>(reply.status);
  Put(kStatus), Put(kStatusWords[status < sizeof(kStatusWords) / kWordBytes ? status : 0]);
  if (reply.status != Status::kOk) Put(kMessage), Put(reply.message);
  PutChar('\n');
}

// CPL3, on the payload's stack, like the payload itself.
extern "C" [[NESTBENCH_PVH_TEXT, gnu::used, noreturn]] void PvhUserMain() {
  auto& mailbox = *At<abi::Mailbox>(abi::kMailboxBase);
  abi::MailboxRequest& request = mailbox.request;
  if (request.magic != abi::kMailboxMagic) {
    request.magic = abi::kMailboxMagic;
    request.version = abi::kMailboxVersion;
    request.iterations = 1000;
    request.seed = 1;
    request.arena_base = abi::kArenaBase;
  }
  request.doorbell = abi::Doorbell::kReturn;
  std::uint64_t operations = 0;
  std::uint64_t checksum = 0;
  for (auto command = static_cast<std::uint32_t>(abi::Command::kSetUp);
       command <= static_cast<std::uint32_t>(abi::Command::kVerify); ++command) {
    request.command = static_cast<abi::Command>(command);
    request.sequence = command;
    mailbox.reply.status = Status::kNotRun;
    Entry(&mailbox);
    if (mailbox.reply.status != Status::kOk) break;
    if (request.command != abi::Command::kRun) continue;
    operations = mailbox.reply.operations;
    checksum = mailbox.reply.checksum;
  }
  PutReport(request, mailbox.reply, operations, checksum);
  const std::uint32_t code = mailbox.reply.status == Status::kOk ? kExitOk : kExitNotOk;
  asm volatile("outl %0, %1" : : "a"(code), "d"(kExitPort));
  OutByte(kKeyboardPort, kPulseReset);
  for (;;) asm volatile("ud2");  // no IDT: a triple fault
}

// Naked functions, because only inside a function may assembly take constants from C++. 32-bit protected mode, flat
// segments, no paging, no stack, interrupts off.
extern "C" [[NESTBENCH_PVH_TEXT, gnu::naked, gnu::used]] void PvhEntry() {
  asm volatile(
      ".code32\n"
      "cli\n"
      "cld\n"
      // Tables of zeroes, then PML4 -> PDPT -> four directories.
      "movl %[tables], %%edi\n"
      "movl %[tables_words], %%ecx\n"
      "xorl %%eax, %%eax\n"
      "rep stosl\n"
      "movl %[pml4e], %c[tables]\n"
      "movl %[pdpte], %%eax\n"
      "movl %[directory_pointers], %%edi\n"
      "movl $4, %%ecx\n"
      "1: movl %%eax, (%%edi)\n"
      "addl $0x1000, %%eax\n"
      "addl $8, %%edi\n"
      "loop 1b\n"
      // Identity in pages of 2 MiB: the supervisor area for CPL0, mailbox to arena for CPL3, nothing else.
      "movl %[directories], %%edi\n"
      "xorl %%ebx, %%ebx\n"
      "movl %[directory_entries], %%ecx\n"
      "2: xorl %%eax, %%eax\n"
      "cmpl %[supervisor_end], %%ebx\n"
      "jae 3f\n"
      "leal %c[supervisor_page](%%ebx), %%eax\n"
      "3: cmpl %[user_base], %%ebx\n"
      "jb 4f\n"
      "cmpl %[user_end], %%ebx\n"
      "jae 4f\n"
      "leal %c[user_page](%%ebx), %%eax\n"
      "4: movl %%eax, (%%edi)\n"
      "addl $8, %%edi\n"
      "addl %[large_page], %%ebx\n"
      "loop 2b\n"
      // TSS: a bitmap that opens the serial port, the debug exit and the keyboard controller. A set bit closes a port.
      "movw %[bitmap_offset], %c[tss_bitmap_field]\n"
      "movl %[bitmap], %%edi\n"
      "movl %[bitmap_bytes], %%ecx\n"
      "movb $0xFF, %%al\n"
      "rep stosb\n"
      "movb $0, %c[bitmap_serial]\n"
      "movb $0x0F, %c[bitmap_exit]\n"
      "movb $0xEF, %c[bitmap_keyboard]\n"
      // Long mode.
      "movl %[cr4], %%eax\n"
      "movl %%eax, %%cr4\n"
      "movl %[tables], %%eax\n"
      "movl %%eax, %%cr3\n"
      "movl %[msr_efer], %%ecx\n"
      "rdmsr\n"
      "orl %[efer], %%eax\n"
      "wrmsr\n"
      "lgdtl nestbench_pvh_gdt_pointer\n"
      "movl %[cr0], %%eax\n"
      "movl %%eax, %%cr0\n"
      "ljmpl %[kernel_code], $PvhEntry64\n"
      "nestbench_pvh_gdt_pointer:\n"
      ".word %c[gdt_limit]\n"
      ".long kPvhGdt\n"
      ".code64\n"
      :
      : [tables] "i"(kTables), [tables_words] "i"((kTablesEnd - kTables) / 4),
        [pml4e] "i"(kDirectoryPointers | kTableEntry), [pdpte] "i"(kDirectories | kTableEntry),
        [directory_pointers] "i"(kDirectoryPointers), [directories] "i"(kDirectories),
        [directory_entries] "i"(kDirectoryEntries), [supervisor_end] "i"(abi::kSupervisorBase + abi::kSupervisorBytes),
        [supervisor_page] "i"(kSupervisorPage), [user_base] "i"(kUserBase), [user_end] "i"(kUserEnd),
        [user_page] "i"(kUserPage), [large_page] "i"(abi::kLargePageBytes), [bitmap_offset] "i"(kTssBytes),
        [tss_bitmap_field] "i"(kTss + kTssIoMapBaseOffset), [bitmap] "i"(kTss + kTssBytes),
        [bitmap_bytes] "i"(kIoPermissionBitmapBytes + 1), [bitmap_serial] "i"(kTss + kTssBytes + abi::kSerialPort / 8),
        [bitmap_exit] "i"(kTss + kTssBytes + kExitPort / 8),
        [bitmap_keyboard] "i"(kTss + kTssBytes + kKeyboardPort / 8), [cr4] "i"(kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt),
        [msr_efer] "i"(kMsrEfer), [efer] "i"(kEferLongModeEnable),
        [cr0] "i"(static_cast<std::uint32_t>(kCr0ProtectedMode | kCr0MonitorCoprocessor | kCr0ExtensionType |
                                             kCr0NumericError | kCr0WriteProtect | kCr0Paging)),
        [kernel_code] "i"(kKernelCodeSelector), [gdt_limit] "i"(sizeof(kPvhGdt) - 1));
}

// 64-bit mode, CPL0: the vector registers as our VMM opens them, then CPL3 at PvhUserMain.
extern "C" [[NESTBENCH_PVH_TEXT, gnu::naked, gnu::used]] void PvhEntry64() {
  asm volatile(
      "movl %[data], %%eax\n"
      "movl %%eax, %%ss\n"
      "movl %%eax, %%ds\n"
      "movl %%eax, %%es\n"
      "movl %[stack_top], %%esp\n"
      "movl %[tss], %%eax\n"
      "ltr %%ax\n"
      "fninit\n"
      "movl $1, %%eax\n"
      "cpuid\n"
      "testl %[xsave], %%ecx\n"
      "jz 1f\n"
      "movq %%cr4, %%rax\n"
      "orl %[osxsave], %%eax\n"
      "movq %%rax, %%cr4\n"
      "movl $0xD, %%eax\n"
      "xorl %%ecx, %%ecx\n"
      "cpuid\n"
      "andl %[registers], %%eax\n"
      "xorl %%edx, %%edx\n"
      "xorl %%ecx, %%ecx\n"
      "xsetbv\n"
      "1: pushq %[user_data]\n"
      "pushq %[user_stack]\n"
      "pushq %[rflags]\n"
      "pushq %[user_code]\n"
      "pushq $PvhUserMain\n"
      "iretq\n"
      :
      : [data] "i"(kDataSelector), [stack_top] "i"(abi::kStackTop), [tss] "i"(kTssSelector), [xsave] "i"(kXsaveOfLeaf1),
        [osxsave] "i"(kCr4Osxsave), [registers] "i"(kUserRegisters), [user_data] "i"(kUserDataSelector),
        [user_stack] "i"(abi::kStackTop - 8), [rflags] "i"(kRflagsReserved1), [user_code] "i"(kUserCodeSelector));
}

// XEN_ELFNOTE_PHYS32_ENTRY (18) of the name "Xen". The value has the width of a pointer of the image's class, which is
// how QEMU reads it, and everything is aligned to 4.
asm(".pushsection .note.Xen, \"a\", @note\n"
    ".balign 4\n"
    ".long 4, 8, 18\n"
    ".asciz \"Xen\"\n"
    ".quad PvhEntry\n"
    ".popsection\n");

}  // namespace
}  // namespace nestbench::payload
