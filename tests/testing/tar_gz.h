// Archives written for tests, from the format's description (POSIX.1-2017, pax, "ustar Interchange Format").
#pragma once

#include <fmt/format.h>
#include <zlib.h>

#include <numeric>
#include <string>
#include <string_view>

#include "base/check.h"

namespace bantam::testing {

// A header and its content, filled to blocks of 512 bytes.
inline std::string TarFile(std::string_view name, std::string_view content, char type = '0', std::string_view prefix = "") {
  std::string header(512, '\0');
  const auto put = [&](size_t offset, std::string_view text) { header.replace(offset, text.size(), text); };
  put(0, name);
  put(100, "0000644");
  put(124, fmt::format("{:011o}", content.size()));
  put(136, "00000000000");
  put(148, "        ");
  header[156] = type;
  put(257, std::string_view("ustar\00000", 8));
  put(345, prefix);
  const unsigned sum =
      std::accumulate(header.begin(), header.end(), 0u, [](unsigned s, char c) { return s + static_cast<unsigned char>(c); });
  put(148, fmt::format("{:06o}", sum));
  header[154] = '\0';
  std::string file = header + std::string(content);
  file.resize((file.size() + 511) / 512 * 512, '\0');
  return file;
}

inline std::string TarEnd() { return std::string(1024, '\0'); }

inline std::string Gzip(std::string_view plain) {
  z_stream stream = {};
  CHECK(::deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(::deflateBound(&stream, plain.size()), '\0');
  std::string input(plain);
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  CHECK(::deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  ::deflateEnd(&stream);
  return packed;
}

}  // namespace bantam::testing
