// Intel's virtual machine extensions, as a guest hypervisor uses them. Source: Intel SDM volume 3, part 3 (chapters
// from "Introduction to Virtual Machine Extensions" on), with appendix A "VMX Capability Reporting Facility", appendix
// B "Field Encoding in VMCS" and appendix C "VMX Basic Exit Reasons". Freestanding.
#pragma once

#include <cstdint>

namespace nestbench::abi::vmx {

// Discovery and enabling. Sections "Discovering Support for VMX" and "Enabling and Entering VMX Operation".
inline constexpr std::uint32_t kCpuid1EcxVmx = 1U << 5;
inline constexpr std::uint64_t kCr4Vmxe = 1ULL << 13;
inline constexpr std::uint32_t kMsrFeatureControl = 0x3A;
inline constexpr std::uint64_t kFeatureControlLock = 1ULL << 0;
inline constexpr std::uint64_t kFeatureControlVmxOutsideSmx = 1ULL << 2;

// Appendix A. Of each pair of controls bits 31:0 must be one where they are one, bits 63:32 allow a one.
inline constexpr std::uint32_t kMsrBasic = 0x480;
inline constexpr std::uint32_t kMsrPinControls = 0x481;
inline constexpr std::uint32_t kMsrProcessorControls = 0x482;
inline constexpr std::uint32_t kMsrExitControls = 0x483;
inline constexpr std::uint32_t kMsrEntryControls = 0x484;
inline constexpr std::uint32_t kMsrMisc = 0x485;
inline constexpr std::uint32_t kMsrCr0Fixed0 = 0x486;
inline constexpr std::uint32_t kMsrCr0Fixed1 = 0x487;
inline constexpr std::uint32_t kMsrCr4Fixed0 = 0x488;
inline constexpr std::uint32_t kMsrCr4Fixed1 = 0x489;
inline constexpr std::uint32_t kMsrVmcsEnumeration = 0x48A;
inline constexpr std::uint32_t kMsrSecondaryControls = 0x48B;
inline constexpr std::uint32_t kMsrEptVpid = 0x48C;
inline constexpr std::uint32_t kMsrTruePinControls = 0x48D;
inline constexpr std::uint32_t kMsrTrueProcessorControls = 0x48E;
inline constexpr std::uint32_t kMsrTrueExitControls = 0x48F;
inline constexpr std::uint32_t kMsrTrueEntryControls = 0x490;
inline constexpr std::uint64_t kBasicRevisionMask = 0x7FFF'FFFF;
inline constexpr unsigned kBasicRegionBytesShift = 32;  // 13 bits
inline constexpr std::uint64_t kBasicTrueControls = 1ULL << 55;

// Section "Pin-Based VM-Execution Controls".
inline constexpr std::uint32_t kPinExternalInterrupt = 1U << 0;
inline constexpr std::uint32_t kPinNmi = 1U << 3;
inline constexpr std::uint32_t kPinVirtualNmis = 1U << 5;
inline constexpr std::uint32_t kPinPreemptionTimer = 1U << 6;

// Section "Processor-Based VM-Execution Controls", primary and secondary.
inline constexpr std::uint32_t kProcessorInterruptWindow = 1U << 2;
inline constexpr std::uint32_t kProcessorTscOffset = 1U << 3;
inline constexpr std::uint32_t kProcessorHlt = 1U << 7;
inline constexpr std::uint32_t kProcessorInvlpg = 1U << 9;
inline constexpr std::uint32_t kProcessorMwait = 1U << 10;
inline constexpr std::uint32_t kProcessorRdpmc = 1U << 11;
inline constexpr std::uint32_t kProcessorRdtsc = 1U << 12;
inline constexpr std::uint32_t kProcessorCr3Load = 1U << 15;
inline constexpr std::uint32_t kProcessorCr3Store = 1U << 16;
inline constexpr std::uint32_t kProcessorCr8Load = 1U << 19;
inline constexpr std::uint32_t kProcessorCr8Store = 1U << 20;
inline constexpr std::uint32_t kProcessorTprShadow = 1U << 21;
inline constexpr std::uint32_t kProcessorNmiWindow = 1U << 22;
inline constexpr std::uint32_t kProcessorMovDr = 1U << 23;
inline constexpr std::uint32_t kProcessorEveryPort = 1U << 24;
inline constexpr std::uint32_t kProcessorPortBitmaps = 1U << 25;
inline constexpr std::uint32_t kProcessorMonitorTrap = 1U << 27;
inline constexpr std::uint32_t kProcessorMsrBitmaps = 1U << 28;
inline constexpr std::uint32_t kProcessorMonitor = 1U << 29;
inline constexpr std::uint32_t kProcessorPause = 1U << 30;
inline constexpr std::uint32_t kProcessorSecondary = 1U << 31;
inline constexpr std::uint32_t kSecondaryVirtualApic = 1U << 0;
inline constexpr std::uint32_t kSecondaryEpt = 1U << 1;
inline constexpr std::uint32_t kSecondaryDescriptorTable = 1U << 2;
inline constexpr std::uint32_t kSecondaryRdtscp = 1U << 3;
inline constexpr std::uint32_t kSecondaryVpid = 1U << 5;
inline constexpr std::uint32_t kSecondaryWbinvd = 1U << 6;
inline constexpr std::uint32_t kSecondaryUnrestricted = 1U << 7;
inline constexpr std::uint32_t kSecondaryRdrand = 1U << 11;
inline constexpr std::uint32_t kSecondaryInvpcid = 1U << 12;
inline constexpr std::uint32_t kSecondaryShadowVmcs = 1U << 14;
inline constexpr std::uint32_t kSecondaryXsaves = 1U << 20;

// Sections "VM-Exit Controls" and "VM-Entry Controls".
inline constexpr std::uint32_t kExitSaveDebug = 1U << 2;
inline constexpr std::uint32_t kExitHost64 = 1U << 9;
inline constexpr std::uint32_t kExitAcknowledgeInterrupt = 1U << 15;
inline constexpr std::uint32_t kExitSavePat = 1U << 18;
inline constexpr std::uint32_t kExitLoadPat = 1U << 19;
inline constexpr std::uint32_t kExitSaveEfer = 1U << 20;
inline constexpr std::uint32_t kExitLoadEfer = 1U << 21;
inline constexpr std::uint32_t kExitSavePreemptionTimer = 1U << 22;
inline constexpr std::uint32_t kEntryLoadDebug = 1U << 2;
inline constexpr std::uint32_t kEntryGuest64 = 1U << 9;
inline constexpr std::uint32_t kEntryToSmm = 1U << 10;
inline constexpr std::uint32_t kEntryDeactivateDualMonitor = 1U << 11;
inline constexpr std::uint32_t kEntryLoadPat = 1U << 14;
inline constexpr std::uint32_t kEntryLoadEfer = 1U << 15;

// Appendix B: encodings of fields. Of segment registers: ES, CS, SS, DS, FS, GS, LDTR, TR, each two on; the host's have
// no LDTR.
inline constexpr std::uint32_t kVpid = 0x0000;
inline constexpr std::uint32_t kGuestEsSelector = 0x0800;
inline constexpr std::uint32_t kGuestCsSelector = 0x0802;
inline constexpr std::uint32_t kGuestSsSelector = 0x0804;
inline constexpr std::uint32_t kGuestTrSelector = 0x080E;
inline constexpr std::uint32_t kHostEsSelector = 0x0C00;
inline constexpr std::uint32_t kHostCsSelector = 0x0C02;
inline constexpr std::uint32_t kHostSsSelector = 0x0C04;
inline constexpr std::uint32_t kHostDsSelector = 0x0C06;
inline constexpr std::uint32_t kHostFsSelector = 0x0C08;
inline constexpr std::uint32_t kHostGsSelector = 0x0C0A;
inline constexpr std::uint32_t kHostTrSelector = 0x0C0C;
inline constexpr std::uint32_t kPortBitmapA = 0x2000;
inline constexpr std::uint32_t kPortBitmapB = 0x2002;
inline constexpr std::uint32_t kMsrBitmap = 0x2004;
inline constexpr std::uint32_t kExitMsrStoreAddress = 0x2006;
inline constexpr std::uint32_t kExitMsrLoadAddress = 0x2008;
inline constexpr std::uint32_t kEntryMsrLoadAddress = 0x200A;
inline constexpr std::uint32_t kTscOffset = 0x2010;
inline constexpr std::uint32_t kVirtualApicAddress = 0x2012;
inline constexpr std::uint32_t kApicAccessAddress = 0x2014;
inline constexpr std::uint32_t kEptPointer = 0x201A;
inline constexpr std::uint32_t kGuestPhysicalAddress = 0x2400;
inline constexpr std::uint32_t kVmcsLinkPointer = 0x2800;
inline constexpr std::uint32_t kGuestDebugControl = 0x2802;
inline constexpr std::uint32_t kGuestPat = 0x2804;
inline constexpr std::uint32_t kGuestEfer = 0x2806;
inline constexpr std::uint32_t kHostPat = 0x2C00;
inline constexpr std::uint32_t kHostEfer = 0x2C02;
inline constexpr std::uint32_t kPinControls = 0x4000;
inline constexpr std::uint32_t kProcessorControls = 0x4002;
inline constexpr std::uint32_t kExceptionBitmap = 0x4004;
inline constexpr std::uint32_t kPageFaultErrorMask = 0x4006;
inline constexpr std::uint32_t kPageFaultErrorMatch = 0x4008;
inline constexpr std::uint32_t kCr3TargetCount = 0x400A;
inline constexpr std::uint32_t kExitControls = 0x400C;
inline constexpr std::uint32_t kExitMsrStoreCount = 0x400E;
inline constexpr std::uint32_t kExitMsrLoadCount = 0x4010;
inline constexpr std::uint32_t kEntryControls = 0x4012;
inline constexpr std::uint32_t kEntryMsrLoadCount = 0x4014;
inline constexpr std::uint32_t kEntryEvent = 0x4016;
inline constexpr std::uint32_t kEntryEventError = 0x4018;
inline constexpr std::uint32_t kEntryInstructionBytes = 0x401A;
inline constexpr std::uint32_t kTprThreshold = 0x401C;
inline constexpr std::uint32_t kSecondaryControls = 0x401E;
inline constexpr std::uint32_t kInstructionError = 0x4400;
inline constexpr std::uint32_t kExitReason = 0x4402;
inline constexpr std::uint32_t kExitEvent = 0x4404;
inline constexpr std::uint32_t kExitEventError = 0x4406;
inline constexpr std::uint32_t kDeliveredEvent = 0x4408;  // IDT-vectoring information
inline constexpr std::uint32_t kDeliveredEventError = 0x440A;
inline constexpr std::uint32_t kExitInstructionBytes = 0x440C;
inline constexpr std::uint32_t kGuestEsLimit = 0x4800;
inline constexpr std::uint32_t kGuestCsLimit = 0x4802;
inline constexpr std::uint32_t kGuestTrLimit = 0x480E;
inline constexpr std::uint32_t kGuestGdtrLimit = 0x4810;
inline constexpr std::uint32_t kGuestIdtrLimit = 0x4812;
inline constexpr std::uint32_t kGuestEsAccess = 0x4814;
inline constexpr std::uint32_t kGuestCsAccess = 0x4816;
inline constexpr std::uint32_t kGuestSsAccess = 0x4818;
inline constexpr std::uint32_t kGuestLdtrAccess = 0x4820;
inline constexpr std::uint32_t kGuestTrAccess = 0x4822;
inline constexpr std::uint32_t kGuestInterruptibility = 0x4824;
inline constexpr std::uint32_t kGuestActivity = 0x4826;
inline constexpr std::uint32_t kGuestSysenterCs = 0x482A;
inline constexpr std::uint32_t kGuestPreemptionTimer = 0x482E;
inline constexpr std::uint32_t kHostSysenterCs = 0x4C00;
inline constexpr std::uint32_t kCr0Mask = 0x6000;
inline constexpr std::uint32_t kCr4Mask = 0x6002;
inline constexpr std::uint32_t kCr0Shadow = 0x6004;
inline constexpr std::uint32_t kCr4Shadow = 0x6006;
inline constexpr std::uint32_t kExitQualification = 0x6400;
inline constexpr std::uint32_t kGuestLinearAddress = 0x640A;
inline constexpr std::uint32_t kGuestCr0 = 0x6800;
inline constexpr std::uint32_t kGuestCr3 = 0x6802;
inline constexpr std::uint32_t kGuestCr4 = 0x6804;
inline constexpr std::uint32_t kGuestEsBase = 0x6806;
inline constexpr std::uint32_t kGuestCsBase = 0x6808;
inline constexpr std::uint32_t kGuestTrBase = 0x6814;
inline constexpr std::uint32_t kGuestGdtrBase = 0x6816;
inline constexpr std::uint32_t kGuestIdtrBase = 0x6818;
inline constexpr std::uint32_t kGuestDr7 = 0x681A;
inline constexpr std::uint32_t kGuestRsp = 0x681C;
inline constexpr std::uint32_t kGuestRip = 0x681E;
inline constexpr std::uint32_t kGuestRflags = 0x6820;
inline constexpr std::uint32_t kGuestPendingDebug = 0x6822;
inline constexpr std::uint32_t kGuestSysenterEsp = 0x6824;
inline constexpr std::uint32_t kGuestSysenterEip = 0x6826;
inline constexpr std::uint32_t kHostCr0 = 0x6C00;
inline constexpr std::uint32_t kHostCr3 = 0x6C02;
inline constexpr std::uint32_t kHostCr4 = 0x6C04;
inline constexpr std::uint32_t kHostFsBase = 0x6C06;
inline constexpr std::uint32_t kHostGsBase = 0x6C08;
inline constexpr std::uint32_t kHostTrBase = 0x6C0A;
inline constexpr std::uint32_t kHostGdtrBase = 0x6C0C;
inline constexpr std::uint32_t kHostIdtrBase = 0x6C0E;
inline constexpr std::uint32_t kHostSysenterEsp = 0x6C10;
inline constexpr std::uint32_t kHostSysenterEip = 0x6C12;
inline constexpr std::uint32_t kHostRsp = 0x6C14;
inline constexpr std::uint32_t kHostRip = 0x6C16;

// Access rights of a segment. Section "Guest Register State".
inline constexpr std::uint32_t kAccessUnusable = 1U << 16;

// Appendix C.
inline constexpr std::uint32_t kReasonException = 0;
inline constexpr std::uint32_t kReasonInterrupt = 1;
inline constexpr std::uint32_t kReasonTripleFault = 2;
inline constexpr std::uint32_t kReasonInterruptWindow = 7;
inline constexpr std::uint32_t kReasonNmiWindow = 8;
inline constexpr std::uint32_t kReasonTaskSwitch = 9;
inline constexpr std::uint32_t kReasonCpuid = 10;
inline constexpr std::uint32_t kReasonHlt = 12;
inline constexpr std::uint32_t kReasonInvd = 13;
inline constexpr std::uint32_t kReasonInvlpg = 14;
inline constexpr std::uint32_t kReasonRdpmc = 15;
inline constexpr std::uint32_t kReasonRdtsc = 16;
inline constexpr std::uint32_t kReasonVmcall = 18;
inline constexpr std::uint32_t kReasonVmclear = 19;
inline constexpr std::uint32_t kReasonVmlaunch = 20;
inline constexpr std::uint32_t kReasonVmptrld = 21;
inline constexpr std::uint32_t kReasonVmptrst = 22;
inline constexpr std::uint32_t kReasonVmread = 23;
inline constexpr std::uint32_t kReasonVmresume = 24;
inline constexpr std::uint32_t kReasonVmwrite = 25;
inline constexpr std::uint32_t kReasonVmxoff = 26;
inline constexpr std::uint32_t kReasonVmxon = 27;
inline constexpr std::uint32_t kReasonCrAccess = 28;
inline constexpr std::uint32_t kReasonMovDr = 29;
inline constexpr std::uint32_t kReasonIo = 30;
inline constexpr std::uint32_t kReasonRdmsr = 31;
inline constexpr std::uint32_t kReasonWrmsr = 32;
inline constexpr std::uint32_t kReasonInvalidGuestState = 33;
inline constexpr std::uint32_t kReasonMsrLoading = 34;
inline constexpr std::uint32_t kReasonMwait = 36;
inline constexpr std::uint32_t kReasonMonitorTrap = 37;
inline constexpr std::uint32_t kReasonMonitor = 39;
inline constexpr std::uint32_t kReasonPause = 40;
inline constexpr std::uint32_t kReasonGdtrIdtr = 46;
inline constexpr std::uint32_t kReasonLdtrTr = 47;
inline constexpr std::uint32_t kReasonEptViolation = 48;
inline constexpr std::uint32_t kReasonEptMisconfiguration = 49;
inline constexpr std::uint32_t kReasonInvept = 50;
inline constexpr std::uint32_t kReasonRdtscp = 51;
inline constexpr std::uint32_t kReasonPreemptionTimer = 52;
inline constexpr std::uint32_t kReasonInvvpid = 53;
inline constexpr std::uint32_t kReasonWbinvd = 54;
inline constexpr std::uint32_t kReasonXsetbv = 55;
inline constexpr std::uint32_t kReasonInvpcid = 58;
inline constexpr std::uint32_t kReasonEntryFailed = 1U << 31;

// Events of entries and exits: vector in bits 7:0, type in 10:8. Section "VM-Entry Controls for Event Injection".
inline constexpr std::uint32_t kEventInterrupt = 0U << 8;
inline constexpr std::uint32_t kEventNmi = 2U << 8;
inline constexpr std::uint32_t kEventException = 3U << 8;
inline constexpr std::uint32_t kEventSoftwareInterrupt = 4U << 8;
inline constexpr std::uint32_t kEventSoftwareException = 6U << 8;
inline constexpr std::uint32_t kEventHasErrorCode = 1U << 11;
inline constexpr std::uint32_t kEventValid = 1U << 31;
inline constexpr std::uint32_t kEventVectorMask = 0xFF;

// Exit qualification of an I/O instruction: bytes minus one in bits 2:0, port in 31:16. Table "Exit Qualification for
// I/O Instructions".
inline constexpr std::uint64_t kIoBytesMask = 7;
inline constexpr std::uint64_t kIoIn = 1U << 3;
inline constexpr std::uint64_t kIoString = 1U << 4;
inline constexpr unsigned kIoPortShift = 16;

// Exit qualification of an EPT violation: the access in bits 2:0, what the tables allow in 5:3. Table "Exit
// Qualification for EPT Violations".
inline constexpr std::uint64_t kViolationRead = 1U << 0;
inline constexpr std::uint64_t kViolationWrite = 1U << 1;
inline constexpr std::uint64_t kViolationFetch = 1U << 2;
inline constexpr std::uint64_t kViolationReadable = 1U << 3;
inline constexpr std::uint64_t kViolationWritable = 1U << 4;
inline constexpr std::uint64_t kViolationExecutable = 1U << 5;
inline constexpr std::uint64_t kViolationLinearValid = 1U << 7;
inline constexpr std::uint64_t kViolationFinal = 1U << 8;

// Entries of EPT tables, and the pointer to them. Sections "EPT Translation Mechanism" and "Extended-Page-Table Pointer
// (EPTP)". Read, write and execute have the places of present, writable and user in a page table.
inline constexpr std::uint64_t kEptRead = 1U << 0;
inline constexpr std::uint64_t kEptWrite = 1U << 1;
inline constexpr std::uint64_t kEptExecute = 1U << 2;
inline constexpr std::uint64_t kEptUncacheable = 0U << 3;
inline constexpr std::uint64_t kEptWriteBack = 6U << 3;
inline constexpr std::uint64_t kEptPointerWriteBack = 6;
inline constexpr std::uint64_t kEptPointerFourLevels = 3U << 3;

// Appendix A, section "VPID and EPT Capabilities".
inline constexpr std::uint64_t kEptVpidFourLevels = 1ULL << 6;
inline constexpr std::uint64_t kEptVpidWriteBack = 1ULL << 14;
inline constexpr std::uint64_t kEptVpidLargePages = 1ULL << 16;
inline constexpr std::uint64_t kEptVpidInvept = 1ULL << 20;
inline constexpr std::uint64_t kEptVpidInveptSingle = 1ULL << 25;
inline constexpr std::uint64_t kEptVpidInveptAll = 1ULL << 26;
inline constexpr std::uint64_t kEptVpidInvvpid = 1ULL << 32;

}  // namespace nestbench::abi::vmx
