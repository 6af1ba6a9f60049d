#include "engine/batch_files.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <utility>

#include "engine/json_request.h"
#include "security/sha256.h"

namespace bantam {
namespace {

constexpr size_t kReadBytes = size_t{64} << 10;
// The output survives a power cut up to here, at the latest.
constexpr size_t kLinesPerSync = 32;
constexpr size_t kNameDigits = 16;
// Of a line that was written: many choices with the likeliest tokens of each place are long.
constexpr size_t kAnswerBytesMax = size_t{1} << 30;

constexpr size_t kIdBytesMax = 1024;

Result<Json> ReadLine(const LineReader::Line& line, Json* id) {
  if (line.too_long) return Error(Code::kExhausted, fmt::format("a line of more than {} bytes; shorten it", kBatchLineBytesMax));
  BANTAM_ASSIGN(Json json, ParseJson(line.text));
  for (const char* name : {"custom_id", "id"}) {
    const Json& own = JsonMember(json, name);
    if (own.is_null()) continue;
    // It is kept until the line is answered.
    if (!own.is_number() && !(own.is_string() && own.get_ref<const std::string&>().size() <= kIdBytesMax)) {
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: {}: expected a number, or a text of at most {} bytes", name, ShortJson(own), kIdBytesMax));
    }
    *id = own;
  }
  if (const Json& inner = JsonMember(json, "body"); inner.is_object()) return Json(inner);
  if (json.is_object()) {
    json.erase("custom_id");
    json.erase("id");
  }
  return json;
}

}  // namespace

Result<std::optional<LineReader::Line>> LineReader::Next() {
  Line line;
  size_t searched = 0;
  while (true) {
    const size_t end = buffer_.find('\n', searched);
    if (end == std::string::npos && !at_end_) {
      if (buffer_.size() > line_bytes_max_) {
        consumed_ += buffer_.size();
        buffer_.clear();
        line.too_long = true;
      }
      const size_t had = buffer_.size();
      searched = had;
      buffer_.resize(had + kReadBytes);
      BANTAM_ASSIGN(const size_t got, file_.Read(offset_, std::as_writable_bytes(std::span(buffer_).subspan(had))));
      buffer_.resize(had + got);
      offset_ += got;
      at_end_ = got == 0;
      continue;
    }
    const size_t size = std::min(end, buffer_.size());
    if (size == 0 && end == std::string::npos && !line.too_long) return std::optional<Line>();
    line.text = buffer_.substr(0, size);
    line.too_long |= size > line_bytes_max_;
    const size_t taken = end == std::string::npos ? size : size + 1;
    buffer_.erase(0, taken);
    searched = 0;
    consumed_ += taken;
    if (!line.too_long && line.text.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (line.too_long) line.text.clear();
    return std::optional<Line>(std::move(line));
  }
}

std::string LineName(std::string_view line) { return HexOf(Sha256Of(std::as_bytes(std::span(line)))).substr(0, kNameDigits); }

Result<std::vector<std::string>> ResumeBatch(PartFile& output) {
  LineReader reader(output, kAnswerBytesMax);
  std::vector<std::string> lines;
  uint64_t whole = 0;
  while (true) {
    const uint64_t before = reader.bytes_read();
    BANTAM_ASSIGN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line) break;
    std::array<std::byte, 1> last{};
    BANTAM_ASSIGN(const size_t got, output.Read(reader.bytes_read() - 1, last));
    const std::string begin = fmt::format("{{\"index\":{},\"request\":\"", lines.size());
    const bool unfinished = got == 1 && last[0] != std::byte{'\n'};
    // It was being written when the program ended.
    if (unfinished && (line->text.starts_with(begin) || begin.starts_with(line->text))) break;
    if (unfinished || !line->text.starts_with(begin) || line->text.size() < begin.size() + kNameDigits) {
      return Error(Code::kCorrupt,
                   fmt::format("line {} (byte {}) is not that of a batch with \"index\" {}; give another file, or remove it",
                               lines.size() + 1, before, lines.size()));
    }
    lines.push_back(line->text.substr(begin.size(), kNameDigits));
    whole = reader.bytes_read();
  }
  if (whole < output.size()) BANTAM_TRY(output.Truncate(whole));
  return lines;
}

Status BatchFiles::Resume() {
  BANTAM_ASSIGN(answered_, ResumeBatch(output_));
  summary_.resumed = answered_.size();
  return Ok();
}

Result<std::optional<BatchFiles::Line>> BatchFiles::Next() {
  while (true) {
    BANTAM_ASSIGN(const std::optional<LineReader::Line> read, reader_.Next());
    if (!read && next_index_ < summary_.resumed) {
      return Error(Code::kInvalidArgument, fmt::format("the output has {} lines and the input {}: it is another batch's; give another file",
                                                       summary_.resumed, next_index_));
    }
    if (!read) return std::optional<Line>();
    Line line;
    line.index = next_index_++;
    line.name = LineName(read->text);
    if (line.index < summary_.resumed) {
      if (answered_[line.index] == line.name) continue;
      return Error(Code::kInvalidArgument,
                   fmt::format("line {} of the input is not the one that was answered; give another output", line.index + 1));
    }
    Result<Json> request = ReadLine(*read, &line.id);
    if (request.ok()) {
      line.request = std::move(request).value();
    } else {
      line.error = std::move(request).error();
    }
    return std::optional<Line>(std::move(line));
  }
}

Status BatchFiles::Write(const Line& line, std::string_view members) {
  Json head = {{"index", line.index}, {"request", line.name}};
  if (!line.id.is_null()) head["id"] = line.id;
  std::string text = DumpJson(head, /*indent=*/-1);
  text.back() = ',';
  text += members;
  text += "}\n";
  BANTAM_TRY(output_.Append(std::as_bytes(std::span(text))));
  ++summary_.lines;
  if (++since_sync_ < kLinesPerSync) return Ok();
  since_sync_ = 0;
  return output_.Sync();
}

Status BatchFiles::Write(const Line& line, const Error& error) {
  ++summary_.errors;
  return Write(line, "\"error\":" + DumpJson(WriteError(error), /*indent=*/-1));
}

Error BatchFiles::Stopped(Code code, std::string_view why) const {
  return Error(code, fmt::format("{}stopped after {} lines; the same command goes on there", why, summary_.resumed + summary_.lines));
}

}  // namespace bantam
