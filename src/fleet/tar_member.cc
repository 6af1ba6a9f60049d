#include "fleet/tar_member.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/bytes.h"

namespace bantam {
namespace {

constexpr size_t kBlockBytes = 512;
constexpr uint64_t kExtensionBytesMax = 64 << 10;  // of a long name, or of a pax header
constexpr int kGzipWindowBits = 15 + 16;           // the largest window, with gzip's header

// Fields of a header: offset and size.
struct Field {
  size_t offset;
  size_t size;
};
constexpr Field kName = {0, 100};
constexpr Field kSize = {124, 12};
constexpr Field kChecksum = {148, 8};
constexpr size_t kTypeOffset = 156;
constexpr Field kMagic = {257, 6};
constexpr Field kPrefix = {345, 155};

using Block = std::array<std::byte, kBlockBytes>;

// A field up to its first NUL.
std::string_view Text(const Block& block, Field field) {
  const std::string_view text = AsText(std::span(block).subspan(field.offset, field.size));
  return text.substr(0, text.find('\0'));
}

std::optional<uint64_t> Octal(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  text = text.substr(0, text.find(' '));
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, /*base=*/8);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Octal, or, with the first bit set, big-endian (GNU's form for 8 GiB and more).
std::optional<uint64_t> SizeOf(const Block& block) {
  if ((block[kSize.offset] & std::byte{0x80}) == std::byte{0}) return Octal(Text(block, kSize));
  uint64_t number = 0;
  for (size_t i = 1; i < kSize.size; ++i) {
    if (number >> 55 != 0) return std::nullopt;
    number = number << 8 | static_cast<uint64_t>(block[kSize.offset + i]);
  }
  return number;
}

// The sum of all bytes, those of the checksum counted as blanks.
bool ChecksumHolds(const Block& block) {
  uint64_t sum = 0;
  for (size_t i = 0; i < kBlockBytes; ++i) {
    const bool own = i >= kChecksum.offset && i < kChecksum.offset + kChecksum.size;
    sum += own ? uint64_t{' '} : static_cast<uint64_t>(block[i]);
  }
  return Octal(Text(block, kChecksum)) == sum;
}

// The value of `key` in a pax header: records "LENGTH KEY=VALUE\n". The last one holds.
std::optional<std::string> PaxValue(std::string_view records, std::string_view key) {
  std::optional<std::string> value;
  while (!records.empty()) {
    size_t length = 0;
    const auto [end, error] = std::from_chars(records.data(), records.data() + records.size(), length);
    const size_t digits = static_cast<size_t>(end - records.data());
    if (error != std::errc() || length > records.size() || length < digits + 3 || records[digits] != ' ') return value;
    const std::string_view record = records.substr(digits + 1, length - digits - 2);
    const size_t equals = record.find('=');
    if (equals != std::string_view::npos && record.substr(0, equals) == key) value = std::string(record.substr(equals + 1));
    records.remove_prefix(length);
  }
  return value;
}

}  // namespace

struct TarGzMember::State {
  enum class Part { kHeader, kMember, kLongName, kPax, kSkipped, kPadding, kEnd };

  std::string member;
  uint64_t member_bytes_max;
  Sink sink;

  z_stream zlib = {};
  bool zlib_ready = false;
  bool stream_ended = false;
  uint64_t unpacked = 0;

  Part part = Part::kHeader;
  Block block;
  size_t block_size = 0;  // bytes of the header that have come
  uint64_t left = 0;      // of what a header announced
  uint64_t padding = 0;   // that follows it
  std::string extension;  // a long name or a pax header, as it comes
  std::string long_name;  // for the next file
  bool has_size = false;  // a pax header gave it
  uint64_t pax_size = 0;
  bool found = false;

  Error Bad(std::string_view problem) const {
    return Error(Code::kCorrupt, fmt::format("an archive with {}: {}; fetch it again", member, problem));
  }

  Status Unpack(std::span<const std::byte> compressed) {
    // What follows the archive's end is read (it may be more padding) and not looked at.
    if (stream_ended || part == Part::kEnd) return Ok();
    zlib.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(compressed.data()));
    zlib.avail_in = static_cast<uInt>(compressed.size());
    std::array<std::byte, 64 << 10> plain;
    while (true) {
      zlib.next_out = reinterpret_cast<Bytef*>(plain.data());
      zlib.avail_out = static_cast<uInt>(plain.size());
      const int result = ::inflate(&zlib, Z_NO_FLUSH);
      if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) return Bad("it is not gzip, or damaged");
      const size_t got = plain.size() - zlib.avail_out;
      unpacked += got;
      if (unpacked > member_bytes_max + kOtherBytesMax) {
        return Error(Code::kExhausted, fmt::format("an archive with {}: more than the limit of {} bytes in it; take another", member,
                                                   member_bytes_max + kOtherBytesMax));
      }
      BANTAM_TRY(Take(std::span<const std::byte>(plain).first(got)));
      if (result == Z_STREAM_END) stream_ended = true;
      if (stream_ended || part == Part::kEnd || (zlib.avail_in == 0 && zlib.avail_out > 0) || result == Z_BUF_ERROR) return Ok();
    }
  }

  // Bytes of the tar archive.
  Status Take(std::span<const std::byte> bytes) {
    while (!bytes.empty() && part != Part::kEnd) {
      if (part == Part::kHeader) {
        const size_t taken = std::min(bytes.size(), kBlockBytes - block_size);
        std::copy_n(bytes.begin(), taken, block.begin() + static_cast<std::ptrdiff_t>(block_size));
        block_size += taken;
        bytes = bytes.subspan(taken);
        if (block_size == kBlockBytes) BANTAM_TRY(Header());
        continue;
      }
      uint64_t& wanted = part == Part::kPadding ? padding : left;
      const auto taken = bytes.first(static_cast<size_t>(std::min<uint64_t>(bytes.size(), wanted)));
      if (part == Part::kMember) BANTAM_TRY(sink(taken));
      if (part == Part::kLongName || part == Part::kPax) extension += AsText(taken);
      wanted -= taken.size();
      bytes = bytes.subspan(taken.size());
      Advance();
    }
    return Ok();
  }

  // Goes on to what follows once the part is complete.
  void Advance() {
    if (part != Part::kPadding && left == 0) {
      if (part == Part::kMember) found = true;
      if (part == Part::kLongName) long_name = extension.substr(0, extension.find('\0'));
      if (part == Part::kPax) {
        if (auto path = PaxValue(extension, "path")) long_name = std::move(*path);
        if (const auto size = PaxValue(extension, "size")) {
          const auto [end, error] = std::from_chars(size->data(), size->data() + size->size(), pax_size);
          has_size = error == std::errc() && end == size->data() + size->size();
        }
      }
      part = Part::kPadding;
    }
    if (part == Part::kPadding && padding == 0) {
      part = found ? Part::kEnd : Part::kHeader;
      block_size = 0;
    }
  }

  Status Header() {
    if (std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{0}; })) {
      part = Part::kEnd;
      return Ok();
    }
    if (!ChecksumHolds(block) || !Text(block, kMagic).starts_with("ustar")) return Bad("not a tar archive, or damaged");
    const std::optional<uint64_t> size = SizeOf(block);
    if (!size.has_value()) return Bad("a file with a bad size");
    std::string name(Text(block, kName));
    const std::string_view prefix = Text(block, kPrefix);
    // GNU's own magic has other fields in the prefix's place.
    if (!prefix.empty() && Text(block, kMagic) == "ustar") name = fmt::format("{}/{}", prefix, name);
    const char type = static_cast<char>(block[kTypeOffset]);
    left = *size;
    extension.clear();
    if (type == 'L' || type == 'x') {
      if (left > kExtensionBytesMax) return Bad("a name that is too long");
      part = type == 'L' ? Part::kLongName : Part::kPax;
    } else {
      if (!long_name.empty() && type != 'g') name = std::exchange(long_name, {});
      if (has_size && type != 'g') left = pax_size;
      has_size = has_size && type == 'g';
      const bool is_file = type == '0' || type == '\0';
      part = is_file && name == member ? Part::kMember : Part::kSkipped;
      if (part == Part::kMember && left > member_bytes_max) {
        return Error(Code::kExhausted, fmt::format("an archive with {}: it has {} bytes, expected {}", member, left, member_bytes_max));
      }
    }
    padding = (kBlockBytes - left % kBlockBytes) % kBlockBytes;
    Advance();
    return Ok();
  }
};

TarGzMember::TarGzMember(std::string member, uint64_t member_bytes_max, Sink sink) : state_(std::make_unique<State>()) {
  state_->member = std::move(member);
  state_->member_bytes_max = member_bytes_max;
  state_->sink = std::move(sink);
  state_->zlib_ready = ::inflateInit2(&state_->zlib, kGzipWindowBits) == Z_OK;
}

TarGzMember::~TarGzMember() {
  if (state_->zlib_ready) ::inflateEnd(&state_->zlib);
}

Status TarGzMember::Append(std::span<const std::byte> compressed) {
  if (!state_->zlib_ready) return Error(Code::kExhausted, "no memory to unpack an archive");
  constexpr size_t kPieceBytesMax = size_t{1} << 20;  // zlib counts in 32 bits
  while (!compressed.empty()) {
    const auto piece = compressed.first(std::min(compressed.size(), kPieceBytesMax));
    BANTAM_TRY(state_->Unpack(piece));
    compressed = compressed.subspan(piece.size());
  }
  return Ok();
}

Status TarGzMember::Finish() {
  if (state_->found) return Ok();
  if (state_->part != State::Part::kEnd && !state_->stream_ended) return state_->Bad("it ends early");
  return Error(Code::kNotFound, fmt::format("an archive without {}; another version of it?", state_->member));
}

}  // namespace bantam
