#include "nestbench/tenants/protocol.h"

#include <fmt/format.h>

#include <cstring>
#include <string>

namespace nestbench::tenants {
namespace {

using vmm::Error;
using vmm::Fail;

struct TypeInfo {
  MessageType type;
  std::string_view name;
  std::size_t body_bytes;
};

constexpr TypeInfo kTypes[] = {
    {MessageType::kSpawn, "spawn", sizeof(Spawn)},
    {MessageType::kStart, "start", 0},
    {MessageType::kSetLoad, "set-load", sizeof(Load)},
    {MessageType::kReport, "report", sizeof(ReportRequest)},
    {MessageType::kInject, "inject", sizeof(Inject)},
    {MessageType::kStop, "stop", 0},
    {MessageType::kSpawned, "spawned", sizeof(Spawned)},
    {MessageType::kReady, "ready", sizeof(Ready)},
    {MessageType::kHeartbeat, "heartbeat", sizeof(Heartbeat)},
    {MessageType::kWindow, "window", sizeof(Window)},
    {MessageType::kTotals, "totals", sizeof(Totals)},
    {MessageType::kHistogram, "histogram", sizeof(HistogramPart)},
    {MessageType::kFault, "fault", sizeof(Fault)},
    {MessageType::kLoadRefused, "load-refused", sizeof(Fault)},
    {MessageType::kEnded, "ended", sizeof(Ended)},
    {MessageType::kLog, "log", sizeof(Log)},
};

const TypeInfo* Find(MessageType type) {
  for (const TypeInfo& info : kTypes) {
    if (info.type == type) return &info;
  }
  return nullptr;
}

template <typename Body>
Body BodyOf(std::span<const std::byte> message) {
  Body body;
  std::memcpy(&body, message.data() + sizeof(MessageHeader), sizeof(body));
  return body;
}

template <std::size_t kSize>
bool HasEnd(const char (&text)[kSize]) {
  return std::memchr(text, '\0', kSize) != nullptr;
}

// What in the body is not as it must be; empty when all is.
std::string_view FaultOf(MessageType type, std::span<const std::byte> message) {
  switch (type) {
    case MessageType::kSpawn: {
      const auto spawn = BodyOf<Spawn>(message);
      if (static_cast<std::uint32_t>(spawn.kind) >= kTenantKinds) return "unknown kind of tenant";
      if (spawn.image >= kMaxImages) return "image index out of range";
      return {};
    }
    case MessageType::kSetLoad: {
      const auto load = BodyOf<Load>(message);
      if (static_cast<std::uint32_t>(load.activity) >= kActivities) return "unknown activity";
      if (load.intensity_percent > 100) return "intensity above 100 %";
      return {};
    }
    case MessageType::kHeartbeat: {
      const auto state = static_cast<std::uint32_t>(BodyOf<Heartbeat>(message).state);
      return state < 1 || state > 3 ? "unknown state" : std::string_view();
    }
    case MessageType::kHistogram:
      return BodyOf<HistogramPart>(message).count > kHistogramEntries ? "more entries than it holds"
                                                                      : std::string_view();
    case MessageType::kFault:
    case MessageType::kLoadRefused: {
      const auto fault = BodyOf<Fault>(message);
      const auto fault_class = static_cast<std::uint32_t>(fault.fault_class);
      if (fault_class < 1 || fault_class > 5) return "unknown class of fault";
      if (!HasEnd(fault.cause) || !HasEnd(fault.evidence)) return "text without an end";
      return {};
    }
    case MessageType::kLog:
      return HasEnd(BodyOf<Log>(message).text) ? std::string_view() : "text without an end";
    default:
      return {};
  }
}

}  // namespace

std::size_t BodyBytes(MessageType type) {
  const TypeInfo* info = Find(type);
  return info == nullptr ? 0 : info->body_bytes;
}

std::string_view ToString(MessageType type) {
  const TypeInfo* info = Find(type);
  return info == nullptr ? "unknown" : info->name;
}

std::string_view ToString(TenantKind kind) {
  switch (kind) {
    case TenantKind::kBare:
      return "bare";
    case TenantKind::kVm:
      return "user64";
    case TenantKind::kSupervisor64:
      return "supervisor64";
    case TenantKind::kProtected32:
      return "protected32";
    case TenantKind::kReal16:
      return "real16";
  }
  return "unknown";
}

std::string_view ToString(Activity activity) {
  constexpr std::string_view kNames[] = {"none",      "requests",    "timer_storm", "vm_churn",
                                         "processes", "hold_memory", "churn_memory"};
  static_assert(std::size(kNames) == kActivities);
  const auto index = static_cast<std::uint32_t>(activity);
  return index < kActivities ? kNames[index] : "unknown";
}

std::string_view ToString(FaultClass fault_class) {
  switch (fault_class) {
    case FaultClass::kGuestFault:
      return "guest_fault";
    case FaultClass::kVmmFault:
      return "vmm_fault";
    case FaultClass::kHang:
      return "hang";
    case FaultClass::kHostResource:
      return "host_resource";
    case FaultClass::kUnsupported:
      return "unsupported";
  }
  return "unknown";
}

vmm::Result<MessageType> CheckMessage(std::span<const std::byte> message) {
  const auto malformed = [](std::string detail) { return Fail(Error::Malformed("read message", std::move(detail))); };
  MessageHeader header;
  if (message.size() < sizeof(header)) return malformed(fmt::format("{} bytes are no message", message.size()));
  std::memcpy(&header, message.data(), sizeof(header));
  if (header.magic != kMessageMagic) return malformed(fmt::format("magic {:#x}", header.magic));
  if (header.version != kMessageVersion) {
    return malformed(fmt::format("version {}, this program speaks {}", header.version, kMessageVersion));
  }
  const TypeInfo* info = Find(header.type);
  if (info == nullptr) return malformed(fmt::format("type {}", static_cast<unsigned>(header.type)));
  if (header.bytes != message.size() || message.size() != sizeof(header) + info->body_bytes) {
    return malformed(fmt::format("{}: {} bytes, says {}, must be {}", info->name, message.size(), header.bytes,
                                 sizeof(header) + info->body_bytes));
  }
  if (const std::string_view fault = FaultOf(header.type, message); !fault.empty()) {
    return malformed(fmt::format("{}: {}", info->name, fault));
  }
  return header.type;
}

}  // namespace nestbench::tenants
