// An engine's KV: which type a request gets, what is kept of it for others, and what happens while memory is short.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/engine.h"
#include "engine/engine_choice.h"

namespace bantam {

Digest Engine::RootOf(const Request& request) const {
  std::string_view adapter;
  const auto found = adapters_.find(request.adapter);
  if (found != adapters_.end()) adapter = {reinterpret_cast<const char*>(found->second->digest.data()), kDigestBytes};
  return PrefixCache::RootOf({options_.model_digest, plan_.options.kv_type, adapter, request.tenant});
}

KvCache& Engine::CacheOf(const Live& live) { return live.narrow ? *narrow_kv_ : kv_; }
const KvCache& Engine::CacheOf(const Live& live) const { return live.narrow ? *narrow_kv_ : kv_; }

size_t Engine::PlannedBlocks(const Live& live, size_t blocks) const {
  if (!live.narrow) return blocks;
  const size_t planned = kv_.block_bytes(KvPart::kFull);
  return planned == 0 ? 0 : (blocks * narrow_kv_->block_bytes(KvPart::kFull) + planned - 1) / planned;
}

size_t Engine::BlocksToBegin(const Choice& choice) const {
  // One for the answer. A beam gets along with what one of its own that rests has, and not a block more.
  const size_t blocks = KvBlockCount(choice.known.size()) + (choice.beam ? 0 : 1);
  return std::min(PlannedBlocks(*choice.live, blocks), kv_.blocks(KvPart::kFull));
}

// First prefixes go (they count as free here), then new requests get along with less, then they are refused.
bool Engine::TakesNarrow(const Request& request) const {
  if (request.kv_type) return *request.kv_type != plan_.options.kv_type;
  // Layers with a window have room for all sequences, whatever the context.
  if (!options_.narrow_kv || !narrow_kv_ || kv_.blocks(KvPart::kFull) == 0) return false;
  if (pressure_ != Pressure::kCalm) return true;
  // What all tokens of a request come to: its prompt once, and its answers.
  size_t places = policy_.residents_max;
  const auto blocks = [&](const Request& one) {
    const size_t sequences = std::min(SequencesOf(one), places);
    places -= sequences;
    const size_t room = plan_.options.context - one.tokens.size();
    const size_t answer = std::min({one.tokens_max, static_cast<size_t>(answer_tokens_), room});
    return KvBlockCount(one.tokens.size()) + sequences * KvBlockCount(answer);
  };
  // As many as have a place at once, in order of arrival.
  size_t needed = blocks(request);
  for (const auto& [id, live] : requests_) {
    if (places > 0) needed += PlannedBlocks(*live, blocks(live->request));
  }
  if (needed <= kv_.blocks(KvPart::kFull)) return false;
  // What is computed already is of the plan's type, and takes nothing.
  return !options_.prefix_cache || !request.cache || prefixes_->Find(RootOf(request), request.tokens) < kWorthwhile;
}

bool Engine::FreeFor(const Choice& choice, size_t length) {
  if (options_.fail && options_.fail()) return false;
  const KvCache& cache = CacheOf(*choice.live);
  const PerKvPart<size_t> needs = choice.kv.Needs(cache, length);
  for (const KvPart part : kAllKvParts) {
    while (cache.free_blocks(part) < needs[part]) {
      if (!prefixes_->Free(part)) return false;
    }
  }
  return !kv_.recurrent() || choice.kv.state(kv_) != nullptr || kv_.free_states() > 0 || prefixes_->FreeStates();
}

// Recurrent layers leave a checkpoint where they stand, so a step has to end there: at the last whole block that is not all of the prompt.
size_t Engine::CutAtCheckpoint(const Choice& choice, size_t tokens) const {
  if (!kv_.recurrent() || !Keeps(choice)) return tokens;
  const size_t length = choice.kv.length();
  const size_t boundary = (choice.known.size() - 1) / kKvBlockTokens * kKvBlockTokens;
  return length < boundary && length + tokens > boundary ? boundary - length : tokens;
}

void Engine::Begin(Choice& choice) {
  choice.resident = true;
  if (!Keeps(choice)) return;
  // A sequence that begins takes a pair of states, if the caches leave one.
  if (kv_.recurrent() && kv_.free_states() == 0 && !prefixes_->FreeStates()) return;
  const Result<size_t> cached = prefixes_->Adopt(choice.live->root, choice.known, &choice.kv);
  if (!cached.ok()) return;
  if (choice.generation->tokens() == 0) choice.live->cached_tokens = std::max(choice.live->cached_tokens, *cached);
  counters_.cached_tokens += *cached;
}

size_t Engine::FreePlaces() const {
  size_t residents = 0;
  for (const auto& [id, live] : requests_) residents += live->residents();
  const size_t places = PolicyNow().residents_max;
  return places - std::min(places, residents);
}

void Engine::ShareKv(const Choice& from, Choice* to, size_t* places) {
  const bool state = !kv_.recurrent() || kv_.free_states() > 0 || prefixes_->FreeStates();
  if (*places == 0 || !state) return;
  KvCache& cache = CacheOf(*from.live);
  const Status adopted = to->kv.Adopt(cache, from.kv.Checkpoint(cache, from.kv.length()));
  CHECK(adopted.ok());
  to->resident = true;
  --*places;
}

bool Engine::Keeps(const Choice& choice) const {
  return options_.prefix_cache && settings_.prefixes && choice.live->request.cache && !choice.live->narrow && pressure_ == Pressure::kCalm;
}

void Engine::Keep(const Choice& choice) {
  if (!Keeps(choice) || choice.kv.length() == 0) return;
  const size_t length = std::min(choice.kv.length() - SkippedTokens(choice), choice.known.size());
  prefixes_->Keep(choice.live->root, std::span(choice.known).first(length), choice.kv);
}

void Engine::Release(Choice& choice) {
  if (choice.resident) Keep(choice);
  Drop(choice);
}

void Engine::Drop(Choice& choice) {
  choice.kv.Truncate(CacheOf(*choice.live), 0);
  choice.guesses.reset();
  choice.skipped = {};
  choice.resident = false;
}

void Engine::Look() {
  const int64_t now_ns = clock_.NowNs();
  if (!watched() || now_ns < next_look_ns_) return;
  next_look_ns_ = now_ns + kLookNs;
  const MemoryPressure memory = options_.watch ? options_.watch() : MemoryPressure();
  SetPressure(gauge_.Update(now_ns, memory));
  Adapt(memory, options_.watts ? options_.watts(now_ns) : std::nullopt);
}

void Engine::SetPressure(Pressure pressure) {
  if (pressure == pressure_) return;
  uint64_t released = 0;
  if (pressure > pressure_) {
    prefixes_->Clear();
    released = kv_.ReleaseFree();
  }
  if (options_.notice) {
    options_.notice(fmt::format("memory pressure is {} (was {}): {}{}", PressureName(pressure), PressureName(pressure_),
                                pressure == Pressure::kCalm        ? "prefixes are kept again"
                                : pressure == Pressure::kCritical  ? "prefixes are not kept, and new requests are refused"
                                : options_.narrow_kv && narrow_kv_ ? "prefixes are not kept, and new requests keep KV in 8 bits"
                                                                   : "prefixes are not kept",
                                released == 0 ? "" : fmt::format("; {} went back to the system", FormatBytes(released))));
  }
  pressure_ = pressure;
}

Result<size_t> Engine::LoadPrefixes(Disk& disk, const std::string& path) {
  bool there = true;
  const auto load = [&]() -> Result<size_t> {
    auto opened = disk.OpenForReading(path);
    there = opened.ok() || opened.error().code() != Code::kNotFound;
    BANTAM_ASSIGN(const std::unique_ptr<PartFile> file, std::move(opened));
    return prefixes_->Load(*file, {options_.model_digest, plan_.options.kv_type});
  };
  Result<size_t> loaded = load();
  // What is no such file is not going to be replaced by one.
  if (!loaded.ok() && loaded.error().code() == Code::kInvalidArgument) return std::move(loaded).error().With(path);
  if (options_.notice && loaded.ok()) options_.notice(fmt::format("{}: {} blocks of prefixes are warm", path, *loaded));
  if (options_.notice && !loaded.ok()) {
    options_.notice(
        fmt::format("{}: no prefixes: {}", path, there ? loaded.error().message() : std::string("they are kept there when it ends")));
  }
  return loaded.ok() ? *loaded : 0;
}

Status Engine::SavePrefixes(Disk& disk, const std::string& path) const {
  if (prefixes_->nodes() == 0) return Ok();  // what an earlier run left is worth more
  BANTAM_ASSIGN(const std::unique_ptr<FileLock> lock, disk.Lock(path + ".lock"));
  if (lock == nullptr) return Error(Code::kUnavailable, fmt::format("{}: another engine is writing it; give each a file of its own", path));
  const std::string part = path + ".part";
  // It holds what was asked.
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> file, disk.OpenPrivatePart(part));
  BANTAM_TRY(file->Truncate(0));
  Status saved = prefixes_->Save(*file, {options_.model_digest, plan_.options.kv_type});
  if (saved.ok()) saved = disk.Rename(part, path);
  // Half of it helps nobody, and takes room that others may be short of.
  if (!saved.ok()) (void)disk.RemoveTree(part);
  return saved;
}

Status Engine::CheckHolders(const KvCache& cache, KvPart part, std::vector<uint32_t> held, uint64_t* taken) const {
  for (const auto& [id, live] : requests_) {
    if (&CacheOf(*live) != &cache) continue;
    for (const auto& choice : live->choices) {
      for (const uint32_t block : choice->kv.blocks(part)) {
        if (block != KvSequence::kNoBlock) ++held[block];
      }
    }
  }
  for (uint32_t block = 0; block < held.size(); ++block) {
    *taken += held[block] == 0 ? 0 : cache.block_bytes(part);
    if (held[block] == cache.holders(part, block)) continue;
    return Error(Code::kInternal,
                 fmt::format("KV block {}: {} hold it, and {} are counted", block, held[block], cache.holders(part, block)));
  }
  return Ok();
}

Status Engine::CheckHolders() const {
  size_t residents = 0;
  for (const auto& [id, live] : requests_) residents += live->residents();
  if (residents > plan_.options.sequences) {
    return Error(Code::kInternal, fmt::format("{} sequences hold KV, and {} were planned", residents, plan_.options.sequences));
  }
  for (const KvPart part : kAllKvParts) {
    uint64_t taken = 0;
    BANTAM_TRY(CheckHolders(kv_, part, prefixes_->Held(part), &taken));
    if (narrow_kv_) BANTAM_TRY(CheckHolders(*narrow_kv_, part, std::vector<uint32_t>(narrow_kv_->blocks(part)), &taken));
    const size_t block = kv_.block_bytes(part);
    const size_t free = block == 0 ? 0 : (kv_.blocks(part) * block - taken) / block;
    if (free == kv_.free_blocks(part)) continue;
    return Error(Code::kInternal, fmt::format("{} KV blocks are free, and {} are counted", free, kv_.free_blocks(part)));
  }
  return draft_model_ == nullptr ? Ok() : draft_model_->CheckHolders();
}

}  // namespace bantam
