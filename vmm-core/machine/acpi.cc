#include "acpi.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "devices/keyboard/registers.h"
#include "devices/power/registers.h"
#include "nestbench/abi/x86.h"

namespace nestbench::vmm::internal {
namespace {

using Bytes = std::vector<std::uint8_t>;

template <typename Value>
void Put(Bytes& bytes, Value value) {
  for (std::size_t i = 0; i < sizeof(value); ++i) {
    bytes.push_back(static_cast<std::uint8_t>(static_cast<std::uint64_t>(value) >> (8 * i)));
  }
}
void PutText(Bytes& bytes, std::string_view text, std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) bytes.push_back(static_cast<std::uint8_t>(i < text.size() ? text[i] : ' '));
}
void PutBytes(Bytes& bytes, const Bytes& more) { bytes.insert(bytes.end(), more.begin(), more.end()); }
void PutZeroes(Bytes& bytes, std::size_t count) { bytes.insert(bytes.end(), count, 0); }

// Section "System Description Table Header".
constexpr std::size_t kHeaderBytes = 36;
constexpr std::size_t kLengthOffset = 4;
constexpr std::size_t kChecksumOffset = 9;

Bytes Header(std::string_view signature, std::uint8_t revision) {
  Bytes table;
  PutText(table, signature, 4);
  Put<std::uint32_t>(table, 0);  // length, later
  Put(table, revision);
  Put<std::uint8_t>(table, 0);  // checksum, later
  PutText(table, "NESTB", 6);
  PutText(table, "NESTBNCH", 8);
  Put<std::uint32_t>(table, 1);
  PutText(table, "NSTB", 4);
  Put<std::uint32_t>(table, 1);
  return table;
}

std::uint8_t ChecksumOf(std::span<const std::uint8_t> bytes) {
  std::uint8_t sum = 0;
  for (const std::uint8_t byte : bytes) sum = static_cast<std::uint8_t>(sum + byte);
  return static_cast<std::uint8_t>(-sum);
}

void Finish(Bytes& table) {
  const auto size = static_cast<std::uint32_t>(table.size());
  std::memcpy(table.data() + kLengthOffset, &size, sizeof(size));
  table[kChecksumOffset] = ChecksumOf(table);
}

// Section "Generic Address Structure": a register in the I/O space.
void PutIoRegister(Bytes& bytes, std::uint64_t port, std::uint8_t size_bytes) {
  constexpr std::uint8_t kSystemIo = 1;
  Put(bytes, kSystemIo);
  Put<std::uint8_t>(bytes, static_cast<std::uint8_t>(size_bytes * 8));
  Put<std::uint8_t>(bytes, 0);
  Put<std::uint8_t>(bytes, size_bytes == 4 ? 3 : size_bytes);  // access size: byte, word, dword
  Put(bytes, port);
}

// Section "Multiple APIC Description Table (MADT)".
Bytes Madt(const AcpiMachine& machine) {
  constexpr std::uint32_t kPcatCompatible = 1;  // there are two 8259 as well
  constexpr std::uint32_t kIoApicBase = 0xFEC0'0000;
  constexpr std::uint16_t kActiveHighLevel = 0xD;
  Bytes table = Header("APIC", 5);
  Put(table, abi::x86::kApicMmioBase);
  Put(table, kPcatCompatible);
  for (std::uint32_t vcpu = 0; vcpu < machine.vcpus; ++vcpu) {
    Put<std::uint8_t>(table, 0);  // processor local APIC
    Put<std::uint8_t>(table, 8);
    Put(table, static_cast<std::uint8_t>(vcpu));
    Put(table, static_cast<std::uint8_t>(vcpu));
    Put<std::uint32_t>(table, 1);  // enabled
  }
  Put<std::uint8_t>(table, 1);  // I/O APIC
  Put<std::uint8_t>(table, 12);
  Put<std::uint16_t>(table, 0);
  Put(table, kIoApicBase);
  Put<std::uint32_t>(table, 0);
  Put<std::uint8_t>(table, 2);  // interrupt source override
  Put<std::uint8_t>(table, 10);
  Put<std::uint8_t>(table, 0);
  Put(table, static_cast<std::uint8_t>(machine.sci_gsi));
  Put(table, machine.sci_gsi);
  Put(table, kActiveHighLevel);
  Finish(table);
  return table;
}

// Section "Fixed ACPI Description Table (FADT)".
Bytes Fadt(const AcpiMachine& machine, std::uint32_t facs, std::uint32_t dsdt) {
  // No 8042 (bit 1), although its reset line is there: a kernel that is told of one looks for a keyboard for seconds.
  constexpr std::uint16_t kLegacyDevices = 1U << 0;
  constexpr std::uint16_t kNoVga = 1U << 2;
  constexpr std::uint16_t kNoMsi = 1U << 3;
  constexpr std::uint16_t kNoAspm = 1U << 4;
  constexpr std::uint32_t kFlags = 1U << 0      // WBINVD works
                                   | 1U << 2    // C1 on all processors
                                   | 1U << 4    // no fixed power button
                                   | 1U << 5    // no fixed sleep button
                                   | 1U << 8    // the timer has 32 bits
                                   | 1U << 10;  // there is a reset register
  constexpr std::uint16_t kKeyboardBase = 0x60;
  const std::uint32_t port = machine.power_port;
  Bytes table = Header("FACP", 6);
  Put(table, facs);
  Put(table, dsdt);
  Put<std::uint8_t>(table, 0);
  Put<std::uint8_t>(table, 0);  // no preferred profile
  Put(table, static_cast<std::uint16_t>(machine.sci_gsi));
  PutZeroes(table, 8);  // no SMI command port: always in ACPI mode
  Put(table, port + static_cast<std::uint32_t>(power::kStatus));
  Put<std::uint32_t>(table, 0);
  Put(table, port + static_cast<std::uint32_t>(power::kControl));
  Put<std::uint32_t>(table, 0);
  Put<std::uint32_t>(table, 0);
  Put(table, port + static_cast<std::uint32_t>(power::kTimer));
  PutZeroes(table, 8);  // no general-purpose events
  Put(table, static_cast<std::uint8_t>(power::kEventBytes));
  Put(table, static_cast<std::uint8_t>(power::kControlBytes));
  Put<std::uint8_t>(table, 0);
  Put(table, static_cast<std::uint8_t>(power::kTimerBytes));
  PutZeroes(table, 4);
  Put<std::uint16_t>(table, 0xFFFF);  // no C2
  Put<std::uint16_t>(table, 0xFFFF);  // no C3
  PutZeroes(table, 8);
  Put<std::uint8_t>(table, 0x32);  // the century in the clock's RAM
  Put(table, static_cast<std::uint16_t>(kLegacyDevices | kNoVga | kNoMsi | kNoAspm));
  Put<std::uint8_t>(table, 0);
  Put(table, kFlags);
  PutIoRegister(table, kKeyboardBase + keyboard::kCommandOffset, 1);
  Put(table, keyboard::kCommandPulseReset);
  Put<std::uint16_t>(table, 0);
  Put<std::uint8_t>(table, 5);  // minor version
  Put<std::uint64_t>(table, facs);
  Put<std::uint64_t>(table, dsdt);
  PutIoRegister(table, port + power::kStatus, power::kEventBytes);
  PutZeroes(table, 12);
  PutIoRegister(table, port + power::kControl, power::kControlBytes);
  PutZeroes(table, 12);
  PutZeroes(table, 12);
  PutIoRegister(table, port + power::kTimer, power::kTimerBytes);
  PutZeroes(table, 24 + 24 + 8);  // events, sleep registers of reduced hardware, hypervisor's name
  Finish(table);
  return table;
}

// AML. Section "AML Byte Stream Byte Values".
namespace aml {

constexpr std::uint8_t kZero = 0x00;
constexpr std::uint8_t kOne = 0x01;
constexpr std::uint8_t kName = 0x08;
constexpr std::uint8_t kByte = 0x0A;
constexpr std::uint8_t kString = 0x0D;
constexpr std::uint8_t kScope = 0x10;
constexpr std::uint8_t kBuffer = 0x11;
constexpr std::uint8_t kPackage = 0x12;
constexpr std::uint8_t kExtended = 0x5B;
constexpr std::uint8_t kDevice = 0x82;

// Section "Package Length Encoding": the length counts itself.
Bytes WithLength(const Bytes& body) {
  Bytes out;
  const std::size_t one = body.size() + 1;
  if (one < 0x40) {
    Put(out, static_cast<std::uint8_t>(one));
  } else {
    const std::size_t two = body.size() + 2;
    Put(out, static_cast<std::uint8_t>(0x40 | (two & 0xF)));
    Put(out, static_cast<std::uint8_t>(two >> 4));
  }
  PutBytes(out, body);
  return out;
}

Bytes Name(std::string_view name, const Bytes& value) {
  Bytes out = {kName};
  PutText(out, name, 4);
  PutBytes(out, value);
  return out;
}
Bytes ByteValue(std::uint8_t value) { return {kByte, value}; }
Bytes StringValue(std::string_view text) {
  Bytes out = {kString};
  PutText(out, text, text.size());
  out.push_back(0);
  return out;
}
Bytes BufferValue(const Bytes& content) {
  Bytes body = ByteValue(static_cast<std::uint8_t>(content.size()));
  PutBytes(body, content);
  Bytes out = {kBuffer};
  PutBytes(out, WithLength(body));
  return out;
}

}  // namespace aml

// Sections "32-Bit Fixed Memory Range Descriptor", "Extended Interrupt Descriptor", "End Tag".
Bytes Resources(const AcpiVirtioDevice& device) {
  constexpr std::uint8_t kConsumerEdge = 0x03;  // resource consumer, edge-triggered, active high, exclusive
  Bytes bytes = {0x86, 0x09, 0x00, 0x01};
  Put(bytes, static_cast<std::uint32_t>(device.registers.start.value()));
  Put(bytes, static_cast<std::uint32_t>(device.registers.size_bytes));
  PutBytes(bytes, {0x89, 0x06, 0x00, kConsumerEdge, 0x01});
  Put(bytes, device.gsi);
  PutBytes(bytes, {0x79, 0x00});
  return bytes;
}

Bytes Dsdt(const AcpiMachine& machine) {
  Bytes devices;
  PutText(devices, "_SB_", 4);
  std::uint8_t index = 0;
  for (const AcpiVirtioDevice& device : machine.virtio) {
    Bytes body;
    PutText(body, fmt::format("VI{:02}", index), 4);
    PutBytes(body, aml::Name("_HID", aml::StringValue("LNRO0005")));  // the ID that drivers know virtio over MMIO by
    PutBytes(body, aml::Name("_UID", aml::ByteValue(index)));
    PutBytes(body, aml::Name("_CCA", {aml::kOne}));
    PutBytes(body, aml::Name("_CRS", aml::BufferValue(Resources(device))));
    PutBytes(devices, {aml::kExtended, aml::kDevice});
    PutBytes(devices, aml::WithLength(body));
    ++index;
  }
  Bytes package = {4};
  for (int i = 0; i < 2; ++i) PutBytes(package, aml::ByteValue(power::kSleepTypeOff));
  PutBytes(package, {aml::kZero, aml::kZero});
  Bytes soft_off = {aml::kPackage};
  PutBytes(soft_off, aml::WithLength(package));

  Bytes table = Header("DSDT", 2);
  PutBytes(table, {aml::kScope});
  PutBytes(table, aml::WithLength(devices));
  PutBytes(table, aml::Name("_S5_", soft_off));
  Finish(table);
  return table;
}

// Section "Firmware ACPI Control Structure (FACS)".
Bytes Facs() {
  constexpr std::size_t kBytes = 64;
  Bytes table;
  PutText(table, "FACS", 4);
  Put(table, static_cast<std::uint32_t>(kBytes));
  table.resize(kBytes);
  table[32] = 2;  // version
  return table;
}

}  // namespace

Result<abi::GuestPhysAddr> WriteAcpiTables(const GuestMemory& memory, abi::GuestPhysAddr start,
                                           std::uint64_t room_bytes, const AcpiMachine& machine) {
  constexpr std::uint64_t kAlign = 64;
  std::uint64_t next = start.value() + kAlign;  // the root pointer lies at the start
  Result<void> done;
  const auto place = [&](const Bytes& table) {
    const std::uint64_t at = next;
    next = (next + table.size() + kAlign - 1) / kAlign * kAlign;
    if (next > start.value() + room_bytes) {
      done = Fail(Error::InvalidArgument("write ACPI tables", "too many processors or devices for their room"));
    }
    if (done) done = memory.WriteBytes(abi::GuestPhysAddr(at), std::as_bytes(std::span(table)));
    return static_cast<std::uint32_t>(at);
  };
  const std::uint32_t facs = place(Facs());
  const std::uint32_t dsdt = place(Dsdt(machine));
  const std::uint32_t fadt = place(Fadt(machine, facs, dsdt));
  const std::uint32_t madt = place(Madt(machine));
  Bytes xsdt_table = Header("XSDT", 1);
  Put<std::uint64_t>(xsdt_table, fadt);
  Put<std::uint64_t>(xsdt_table, madt);
  Finish(xsdt_table);
  const std::uint32_t xsdt = place(xsdt_table);

  // Section "Root System Description Pointer (RSDP)": two checksums, of the first 20 bytes and of all.
  Bytes root;
  PutText(root, "RSD PTR ", 8);
  Put<std::uint8_t>(root, 0);
  PutText(root, "NESTB", 6);
  Put<std::uint8_t>(root, 2);
  Put<std::uint32_t>(root, 0);  // no 32-bit table of tables
  Put<std::uint32_t>(root, kHeaderBytes);
  Put<std::uint64_t>(root, xsdt);
  PutZeroes(root, 4);
  root[8] = ChecksumOf(std::span(root).first(20));
  root[32] = ChecksumOf(root);
  if (done) done = memory.WriteBytes(start, std::as_bytes(std::span(root)));
  if (!done) return Fail(std::move(done.error()));
  return start;
}

}  // namespace nestbench::vmm::internal
