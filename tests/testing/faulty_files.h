// A file system whose n-th operation fails, and a source of tensor bytes whose n-th view does.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "base/file.h"
#include "formats/model_file.h"

namespace bantam::testing {

// Counts operations down; the one that finds 1 fails, and with `lasting` all after it. 0 never fails.
class Fuse {
 public:
  void Set(int n, bool lasting = false) {
    left_ = n;
    lasting_ = lasting;
  }
  bool blown() const { return blown_; }
  // Whether nothing works any more.
  bool off() const { return lasting_ && blown_; }
  // Whether it has blown, and forgets it.
  bool TakeBlown() { return std::exchange(blown_, false); }
  Status Burn(const char* what) {
    if (!off() && (left_ == 0 || --left_ != 0)) return Ok();
    blown_ = true;
    return Error(Code::kUnavailable, std::string(what) + ": injected fault");
  }

 private:
  int left_ = 0;
  bool blown_ = false;
  bool lasting_ = false;
};

class FaultyWriter final : public FileWriter {
 public:
  FaultyWriter(std::unique_ptr<FileWriter> inner, Fuse& fuse) : inner_(std::move(inner)), fuse_(fuse) {}
  // A full disk takes the first half.
  Status Append(std::span<const std::byte> bytes) override {
    if (Status burnt = fuse_.Burn("write"); !burnt.ok()) {
      (void)inner_->Append(bytes.first(bytes.size() / 2)).ok();
      return burnt;
    }
    return inner_->Append(bytes);
  }
  Status Overwrite(uint64_t offset, std::span<const std::byte> bytes) override {
    BANTAM_TRY(fuse_.Burn("overwrite"));
    return inner_->Overwrite(offset, bytes);
  }
  Status Commit() override {
    BANTAM_TRY(fuse_.Burn("commit"));
    return inner_->Commit();
  }

 private:
  std::unique_ptr<FileWriter> inner_;
  Fuse& fuse_;
};

class FaultyFiles final : public FileSystem {
 public:
  explicit FaultyFiles(Fuse& fuse) : fuse_(fuse) {}
  Result<std::unique_ptr<FileMapping>> Map(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("map"));
    return inner_->Map(path);
  }
  Result<std::string> ReadText(const std::string& path, size_t size_max) override {
    BANTAM_TRY(fuse_.Burn("read"));
    return inner_->ReadText(path, size_max);
  }
  Result<std::unique_ptr<FileWriter>> Create(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("create"));
    BANTAM_ASSIGN(auto writer, inner_->Create(path));
    return std::unique_ptr<FileWriter>(std::make_unique<FaultyWriter>(std::move(writer), fuse_));
  }
  bool Exists(const std::string& path) override { return inner_->Exists(path); }
  Result<std::vector<Entry>> List(const std::string& folder) override {
    BANTAM_TRY(fuse_.Burn("list"));
    return inner_->List(folder);
  }
  Status Remove(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("remove"));
    return inner_->Remove(path);
  }

 private:
  std::unique_ptr<FileSystem> inner_ = MakeFileSystem();
  Fuse& fuse_;
};

class FaultySource final : public TensorSource {
 public:
  FaultySource(std::unique_ptr<TensorSource> inner, Fuse& fuse) : inner_(std::move(inner)), fuse_(fuse) {}
  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override {
    BANTAM_TRY(fuse_.Burn("view"));
    return inner_->View(offset_bytes, size_bytes);
  }
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override { inner_->Release(offset_bytes, size_bytes); }

 private:
  std::unique_ptr<TensorSource> inner_;
  Fuse& fuse_;
};

}  // namespace bantam::testing
