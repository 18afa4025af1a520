// A cgroup v2 file system of make-believe, in a temporary folder: groups are full of files when they are made,
// processes are in one group at a time, and the rules that matter are kept (no internal processes, controllers from
// above).
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "../cgroup_files.h"

namespace nestbench::tenancy {

class FakeKernel : public CgroupFiles {
 public:
  FakeKernel() : CgroupFiles(MakeTemporary()) {}
  ~FakeKernel() override { std::filesystem::remove_all(Below("/")); }

  // A file outside of the kernel's rules: /proc/self/..., or a counter of a group.
  void Put(const std::string& path, std::string_view text) const {
    std::filesystem::create_directories(Below(path).parent_path());
    std::ofstream(Below(path)) << text;
  }

  // The group that is there before anything else, with the controllers that its hierarchy has.
  void AddRootGroup(const std::string& path, const std::string& controllers, bool is_v2 = true) {
    std::filesystem::create_directories(Below(path));
    Populate(path, controllers, is_v2);
  }
  void AddProcess(int pid, const std::string& group) {
    group_of_[pid] = group;
    WriteProcesses();
  }
  void DenyFolder(const std::string& path) { denied_.insert(path); }
  [[nodiscard]] std::string Text(const std::string& path) const { return Read(path).value_or("<missing>"); }
  [[nodiscard]] std::string GroupOf(int pid) const {
    const auto found = group_of_.find(pid);
    return found == group_of_.end() ? "" : found->second;
  }

  vmm::Result<> MakeFolder(const std::string& path) const override {
    const std::string parent = path.substr(0, path.rfind('/'));
    if (denied_.contains(parent)) return vmm::Fail(vmm::Error::System("mkdir", EACCES, path));
    if (auto made = CgroupFiles::MakeFolder(path); !made) return made;
    const bool is_v2 = Exists(parent + "/cgroup.subtree_control");
    Populate(path, is_v2 ? Text(parent + "/cgroup.subtree_control") : Text(parent + "/controllers"), is_v2);
    return {};
  }

  vmm::Result<> RemoveFolder(const std::string& path) const override {
    if (!Exists(path)) return {};
    if (!Subfolders(path).empty() || HasProcess(path)) return vmm::Fail(vmm::Error::System("rmdir", EBUSY, path));
    std::filesystem::remove_all(Below(path));
    return {};
  }

  vmm::Result<> Write(const std::string& path, std::string_view text) const override {
    const std::string folder = path.substr(0, path.rfind('/'));
    const auto refuse = [&](int error) { return vmm::Fail(vmm::Error::System("write", error, path)); };
    if (!Exists(path)) return vmm::Fail(vmm::Error::System("open", ENOENT, path));
    if (path.ends_with("/cgroup.procs")) {
      if (!Trimmed(folder + "/cgroup.subtree_control").empty() && folder != kRealRoot) return refuse(EBUSY);
      group_of_[std::stoi(std::string(text))] = folder;
      WriteProcesses();
      return {};
    }
    if (path.ends_with("/cgroup.subtree_control")) {
      const std::string name(text.substr(1));
      std::set<std::string> words = Words(path);
      if (text[0] == '+' && !Words(folder + "/cgroup.controllers").contains(name)) return refuse(ENOENT);
      if (text[0] == '+' && HasProcess(folder) && folder != kRealRoot) return refuse(EBUSY);
      for (const std::string& child : Subfolders(folder)) {
        if (text[0] == '-' && Words(folder + "/" + child + "/cgroup.subtree_control").contains(name))
          return refuse(EBUSY);
      }
      text[0] == '+' ? (void)words.insert(name) : (void)words.erase(name);
      std::string joined;
      for (const std::string& word : words) joined += (joined.empty() ? "" : " ") + word;
      Put(path, joined);
      for (const std::string& child : Subfolders(folder)) Populate(folder + "/" + child, joined, true);
      return {};
    }
    if (path.ends_with("/cgroup.kill")) {
      std::erase_if(group_of_, [&](const auto& entry) { return (entry.second + "/").starts_with(folder + "/"); });
      WriteProcesses();
      return {};
    }
    std::filesystem::resize_file(Below(path), 0);  // a control file is no text that is overwritten in part
    return CgroupFiles::Write(path, text);
  }

  static constexpr std::string_view kRealRoot = "/sys/fs/cgroup";

 private:
  static std::filesystem::path MakeTemporary() {
    std::string name = (std::filesystem::temp_directory_path() / "nestbench-cgroup-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::filesystem::filesystem_error("mkdtemp", name, std::error_code());
    return name;
  }
  [[nodiscard]] std::string Trimmed(const std::string& path) const { return Exists(path) ? Text(path) : ""; }
  [[nodiscard]] std::set<std::string> Words(const std::string& path) const {
    std::set<std::string> words;
    std::ifstream file(Below(path));
    for (std::string word; file >> word;) words.insert(word);
    return words;
  }
  [[nodiscard]] bool HasProcess(const std::string& group) const {
    return std::ranges::any_of(group_of_, [&](const auto& entry) { return entry.second == group; });
  }
  void WriteProcesses() const {
    for (auto it = std::filesystem::recursive_directory_iterator(Below("/")); const auto& entry : it) {
      if (entry.path().filename() == "cgroup.procs") std::ofstream(entry.path()).close();
    }
    for (const auto& [pid, group] : group_of_)
      std::ofstream(Below(group + "/cgroup.procs"), std::ios::app) << pid << "\n";
  }
  void PutNew(const std::string& path, std::string_view text) const {
    if (!Exists(path)) Put(path, text);
  }
  void Populate(const std::string& group, const std::string& controllers, bool is_v2) const {
    PutNew(group + "/cgroup.procs", "");
    if (!is_v2) {
      PutNew(group + "/controllers", controllers);  // of make-believe: what the children have
      PutNew(group + "/tasks", "");
    } else {
      Put(group + "/cgroup.controllers", controllers);
      PutNew(group + "/cgroup.subtree_control", "");
      PutNew(group + "/cgroup.kill", "");
      PutNew(group + "/cpu.stat", "usage_usec 5\nuser_usec 5\n");
      PutNew(group + "/cpu.pressure",
             "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
    }
    const auto has = [&](std::string_view name) {
      return (" " + controllers + " ").find(" " + std::string(name) + " ") != std::string::npos;
    };
    if (has("memory") && is_v2) {
      for (const char* file : {"/memory.max", "/memory.swap.max"}) PutNew(group + file, "max");
      PutNew(group + "/memory.current", "4096\n");
      PutNew(group + "/memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\n");
      PutNew(group + "/memory.stat", "anon 1\nfile 2\nkernel 4096\nkernel_stack 5\n");
    }
    if (has("memory") && !is_v2) {
      PutNew(group + "/memory.limit_in_bytes", "9223372036854771712");
      PutNew(group + "/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
    }
    if (has("cpu") && is_v2) PutNew(group + "/cpu.max", "max 100000");
    if (has("pids")) PutNew(group + "/pids.max", "max");
    if (has("pids")) PutNew(group + "/pids.current", "1\n");
  }

  // A kernel changes while those who use it hold it const.
  mutable std::map<int, std::string> group_of_;
  std::set<std::string> denied_;
};

}  // namespace nestbench::tenancy
