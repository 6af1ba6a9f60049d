// Prefixes on disk: docs/formats/prefixes.md.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "base/check.h"
#include "engine/prefix_cache.h"

namespace bantam {
namespace {

constexpr char kMagic[8] = {'B', 'N', 'T', 'M', 'P', 'R', 'F', 'X'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kHasBlock = 1;
constexpr uint32_t kHasCheckpoint = 2;
constexpr size_t kBufferBytes = size_t{1} << 20;
// Blocks in front of one another: longer contexts do not exist.
constexpr uint32_t kDepthMax = uint32_t{1} << 20;

}  // namespace

class PrefixWriter {
 public:
  explicit PrefixWriter(PartFile& file) : file_(file) {}

  Status Write(const PrefixCache& prefixes, const PrefixCache::FileOf& of);

 private:
  template <typename T>
  Status Number(T value) {
    return Bytes(std::as_bytes(std::span(&value, 1)));
  }
  Status Bytes(std::span<const std::byte> bytes) {
    sha_.Update(bytes);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    return buffer_.size() < kBufferBytes ? Ok() : Flush();
  }
  Status Flush() {
    const Status appended = file_.Append(buffer_);
    buffer_.clear();
    return appended;
  }
  Status WriteNode(const PrefixCache& prefixes, const PrefixCache::Node& node);

  PartFile& file_;
  Sha256 sha_;
  std::vector<std::byte> buffer_;
  std::map<uint32_t, uint32_t> windowed_;  // numbers in the file, by block
};

Status PrefixWriter::WriteNode(const PrefixCache& prefixes, const PrefixCache::Node& node) {
  const KvCache& cache = prefixes.cache_;
  const bool has_block = node.block != KvSequence::kNoBlock;
  BANTAM_TRY(Bytes(std::as_bytes(std::span(node.parent))));
  BANTAM_TRY(Number(static_cast<uint32_t>(node.depth)));
  BANTAM_TRY(Bytes(std::as_bytes(std::span(node.tokens))));
  BANTAM_TRY(Number(node.uses));
  BANTAM_TRY(Number((has_block ? kHasBlock : 0) | (node.checkpoint ? kHasCheckpoint : 0)));
  if (has_block) {
    const uint8_t* block = cache.Block(KvPart::kFull, node.block);
    BANTAM_TRY(Bytes(std::as_bytes(std::span(block, cache.block_bytes(KvPart::kFull)))));
  }
  if (!node.checkpoint) return Ok();
  BANTAM_TRY(Number(static_cast<uint32_t>(node.checkpoint->windowed.size())));
  for (const uint32_t block : node.checkpoint->windowed) BANTAM_TRY(Number(windowed_.at(block)));
  if (!node.checkpoint->states) return Ok();
  return Bytes(std::as_bytes(std::span(cache.State(*node.checkpoint->states, /*which=*/0), cache.state_floats())));
}

Status PrefixWriter::Write(const PrefixCache& prefixes, const PrefixCache::FileOf& of) {
  const KvCache& cache = prefixes.cache_;
  std::vector<const PrefixCache::Node*> nodes;
  std::vector<uint32_t> blocks;
  for (const auto& [name, node] : prefixes.nodes_) {
    nodes.push_back(&node);
    if (!node.checkpoint) continue;
    for (const uint32_t block : node.checkpoint->windowed) {
      if (windowed_.try_emplace(block, static_cast<uint32_t>(blocks.size())).second) blocks.push_back(block);
    }
  }
  // Parents first, and of equal depth what is worth most: a reader with less room takes the beginning.
  std::sort(nodes.begin(), nodes.end(), [](const auto* a, const auto* b) {
    return a->depth != b->depth ? a->depth < b->depth : a->worth != b->worth ? a->worth > b->worth : a->tokens < b->tokens;
  });
  BANTAM_TRY(Bytes(std::as_bytes(std::span(kMagic))));
  BANTAM_TRY(Number(kVersion));
  BANTAM_TRY(Number(static_cast<uint32_t>(of.kv_type)));
  BANTAM_TRY(Bytes(std::as_bytes(std::span(of.model))));
  BANTAM_TRY(Number(uint64_t{cache.block_bytes(KvPart::kFull)}));
  BANTAM_TRY(Number(uint64_t{cache.block_bytes(KvPart::kWindowed)}));
  BANTAM_TRY(Number(uint64_t{cache.state_floats()}));
  BANTAM_TRY(Number(static_cast<uint32_t>(blocks.size())));
  BANTAM_TRY(Number(static_cast<uint32_t>(nodes.size())));
  for (const uint32_t block : blocks) {
    BANTAM_TRY(Bytes(std::as_bytes(std::span(cache.Block(KvPart::kWindowed, block), cache.block_bytes(KvPart::kWindowed)))));
  }
  for (const PrefixCache::Node* node : nodes) BANTAM_TRY(WriteNode(prefixes, *node));
  const Digest digest = sha_.Finish();
  buffer_.insert(buffer_.end(), std::as_bytes(std::span(digest)).begin(), std::as_bytes(std::span(digest)).end());
  BANTAM_TRY(Flush());
  return file_.Sync();
}

class PrefixReader {
 public:
  PrefixReader(PartFile& file, PrefixCache& prefixes) : file_(file), prefixes_(prefixes), cache_(prefixes.cache_) {}
  ~PrefixReader() {
    for (const uint32_t block : windowed_) {
      if (block != KvSequence::kNoBlock) cache_.Give(KvPart::kWindowed, block);
    }
  }

  Result<size_t> Read(const PrefixCache::FileOf& of);

 private:
  Status Bytes(std::span<std::byte> into) {
    size_t done = 0;
    while (done < into.size()) {
      BANTAM_ASSIGN(const size_t got, file_.Read(offset_, into.subspan(done)));
      if (got == 0) return Damaged("it is cut short");
      offset_ += got;
      done += got;
    }
    sha_.Update(into);
    return Ok();
  }
  template <typename T>
  Result<T> Number() {
    T value{};
    BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  Error Damaged(std::string_view why) const {
    return Error(Code::kCorrupt, fmt::format("prefixes, byte {}: {}; remove the file", offset_, why));
  }
  Status Skip(uint64_t bytes) {
    std::vector<std::byte> unused(std::min<uint64_t>(bytes, kBufferBytes));
    for (uint64_t done = 0; done < bytes; done += unused.size()) {
      BANTAM_TRY(Bytes(std::span(unused).first(std::min<uint64_t>(unused.size(), bytes - done))));
    }
    return Ok();
  }
  Status ReadHeader(const PrefixCache::FileOf& of, uint32_t* blocks, uint32_t* nodes);
  Status ReadWindowed(uint32_t blocks);
  Status ReadNode();
  Status ReadCheckpoint(bool keep, PrefixCache::Node* node);

  PartFile& file_;
  PrefixCache& prefixes_;
  KvCache& cache_;
  Sha256 sha_;
  uint64_t offset_ = 0;
  std::vector<uint32_t> windowed_;  // by number in the file; kNoBlock: there was no room
  std::vector<Digest> added_;
};

Status PrefixReader::ReadHeader(const PrefixCache::FileOf& of, uint32_t* blocks, uint32_t* nodes) {
  char magic[sizeof(kMagic)];
  BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(magic))));
  if (std::memcmp(magic, kMagic, sizeof(kMagic)) != 0) return Error(Code::kInvalidArgument, "it is no file of prefixes; name another");
  BANTAM_ASSIGN(const uint32_t version, Number<uint32_t>());
  BANTAM_ASSIGN(const uint32_t kv_type, Number<uint32_t>());
  Digest model;
  BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(model))));
  BANTAM_ASSIGN(const uint64_t full_bytes, Number<uint64_t>());
  BANTAM_ASSIGN(const uint64_t windowed_bytes, Number<uint64_t>());
  BANTAM_ASSIGN(const uint64_t state_floats, Number<uint64_t>());
  BANTAM_ASSIGN(*blocks, Number<uint32_t>());
  BANTAM_ASSIGN(*nodes, Number<uint32_t>());
  const bool ours = version == kVersion && kv_type == static_cast<uint32_t>(of.kv_type) && model == of.model &&
                    full_bytes == cache_.block_bytes(KvPart::kFull) && windowed_bytes == cache_.block_bytes(KvPart::kWindowed) &&
                    state_floats == cache_.state_floats();
  if (!ours) return Error(Code::kNotFound, "prefixes of another model, KV type or version");
  // Each takes more bytes than this, so a number from the file bounds nothing larger than the file.
  if (*nodes > file_.size() / kDigestBytes || *blocks > file_.size() / std::max<uint64_t>(windowed_bytes, 1) ||
      (windowed_bytes == 0 && *blocks > 0)) {
    return Damaged("more blocks than bytes");
  }
  return Ok();
}

Status PrefixReader::ReadWindowed(uint32_t blocks) {
  for (uint32_t i = 0; i < blocks; ++i) {
    windowed_.push_back(KvSequence::kNoBlock);
    if (cache_.free_blocks(KvPart::kWindowed) == 0) {
      BANTAM_TRY(Skip(cache_.block_bytes(KvPart::kWindowed)));
      continue;
    }
    BANTAM_ASSIGN(windowed_.back(), cache_.Take(KvPart::kWindowed));
    uint8_t* block = cache_.Block(KvPart::kWindowed, windowed_.back());
    BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(block, cache_.block_bytes(KvPart::kWindowed)))));
  }
  return Ok();
}

Status PrefixReader::ReadCheckpoint(bool keep, PrefixCache::Node* node) {
  BANTAM_ASSIGN(const uint32_t count, Number<uint32_t>());
  // What the next token sees, no more and no less (KvSequence::Checkpoint).
  const size_t length = node->depth * kKvBlockTokens;
  const size_t first =
      prefixes_.window_ == 0 ? node->depth : (length > prefixes_.window_ - 1 ? length - (prefixes_.window_ - 1) : 0) / kKvBlockTokens;
  if (count != node->depth - first) return Damaged("a checkpoint of another window");
  PrefixCache::Checkpoint checkpoint;
  for (uint32_t i = 0; i < count; ++i) {
    BANTAM_ASSIGN(const uint32_t number, Number<uint32_t>());
    if (number >= windowed_.size()) return Damaged("a checkpoint of a block that is not there");
    keep &= windowed_[number] != KvSequence::kNoBlock;
    checkpoint.windowed.push_back(windowed_[number]);
  }
  keep &= !cache_.recurrent() || cache_.free_states() > 0;
  if (!keep) return Skip(cache_.state_floats() * sizeof(float));
  if (cache_.recurrent()) {
    BANTAM_ASSIGN(checkpoint.states, cache_.TakeStates());
  }
  for (const uint32_t block : checkpoint.windowed) cache_.Share(KvPart::kWindowed, block);
  node->checkpoint = std::move(checkpoint);
  if (!node->checkpoint->states) return Ok();
  return Bytes(std::as_writable_bytes(std::span(cache_.State(*node->checkpoint->states, /*which=*/0), cache_.state_floats())));
}

Status PrefixReader::ReadNode() {
  PrefixCache::Node node;
  BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(node.parent))));
  BANTAM_ASSIGN(const uint32_t depth, Number<uint32_t>());
  BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(node.tokens))));
  BANTAM_ASSIGN(node.uses, Number<uint32_t>());
  BANTAM_ASSIGN(const uint32_t flags, Number<uint32_t>());
  node.depth = depth;
  const bool has_full = cache_.block_bytes(KvPart::kFull) > 0;
  if (depth == 0 || depth > kDepthMax || node.uses == 0 || ((flags & kHasBlock) != 0) != has_full || flags > (kHasBlock | kHasCheckpoint) ||
      ((flags & kHasCheckpoint) != 0 && !prefixes_.needs_checkpoints_)) {
    return Damaged("a node contradicts the header");
  }
  const Digest name = PrefixNameOf(node.parent, node.tokens);
  const auto parent = prefixes_.nodes_.find(node.parent);
  // What is here already stays as it is; what has lost its parent to a lack of room goes too.
  bool keep = !prefixes_.nodes_.contains(name) && (depth == 1 || (parent != prefixes_.nodes_.end() && parent->second.depth + 1 == depth));
  keep &= !has_full || cache_.free_blocks(KvPart::kFull) > 0;
  if (has_full && keep) {
    BANTAM_ASSIGN(node.block, cache_.Take(KvPart::kFull));
    PrefixCache::Node& inserted = prefixes_.Insert(name, std::move(node));
    added_.push_back(name);
    BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(cache_.Block(KvPart::kFull, inserted.block), cache_.block_bytes(KvPart::kFull)))));
    return (flags & kHasCheckpoint) != 0 ? ReadCheckpoint(keep, &inserted) : Ok();
  }
  if (has_full) BANTAM_TRY(Skip(cache_.block_bytes(KvPart::kFull)));
  if (!keep) return (flags & kHasCheckpoint) != 0 ? ReadCheckpoint(/*keep=*/false, &node) : Ok();
  PrefixCache::Node& inserted = prefixes_.Insert(name, std::move(node));
  added_.push_back(name);
  return (flags & kHasCheckpoint) != 0 ? ReadCheckpoint(keep, &inserted) : Ok();
}

Result<size_t> PrefixReader::Read(const PrefixCache::FileOf& of) {
  uint32_t blocks = 0;
  uint32_t nodes = 0;
  const auto read = [&]() -> Status {
    BANTAM_TRY(ReadHeader(of, &blocks, &nodes));
    BANTAM_TRY(ReadWindowed(blocks));
    for (uint32_t i = 0; i < nodes; ++i) BANTAM_TRY(ReadNode());
    const Digest expected = sha_.Finish();
    Digest digest;
    BANTAM_TRY(Bytes(std::as_writable_bytes(std::span(digest))));
    if (digest != expected) return Damaged("the digest is another one");
    return offset_ == file_.size() ? Ok() : Status(Damaged("there is more behind the end"));
  };
  const Status done = read();
  if (done.ok()) {
    // Nodes that only led to checkpoints for which there was no room.
    for (auto name = added_.rbegin(); prefixes_.needs_checkpoints_ && name != added_.rend(); ++name) {
      const auto node = prefixes_.nodes_.find(*name);
      if (node != prefixes_.nodes_.end() && node->second.children == 0 && !node->second.checkpoint) prefixes_.Remove(*name);
    }
    return static_cast<size_t>(
        std::count_if(added_.begin(), added_.end(), [&](const Digest& name) { return prefixes_.nodes_.contains(name); }));
  }
  for (auto name = added_.rbegin(); name != added_.rend(); ++name) {
    if (prefixes_.nodes_.contains(*name) && prefixes_.nodes_.at(*name).children == 0) prefixes_.Remove(*name);
  }
  return done.error();
}

Status PrefixCache::Save(PartFile& file, const FileOf& of) const { return PrefixWriter(file).Write(*this, of); }

Result<size_t> PrefixCache::Load(PartFile& file, const FileOf& of) { return PrefixReader(file, *this).Read(of); }

}  // namespace bantam
