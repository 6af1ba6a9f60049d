#include "cli/vocabulary_file.h"

#include <fmt/format.h>

#include <utility>

#include "cli/model_folder.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_json.h"

namespace bantam {
namespace {

// The file that a folder's tokenizer is in, or `path` itself.
std::string FindInFolder(FileSystem& files, const std::string& path) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}) {
    std::string inside = fmt::format("{}/{}", path, name);
    if (files.Exists(inside)) return inside;
  }
  return path;
}

Result<Tokenizer> OpenTokenizerJson(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kTokenizerJsonBytesMax));
  const size_t slash = path.rfind('/');
  const std::string config_path = (slash == std::string::npos ? "" : path.substr(0, slash + 1)) + "tokenizer_config.json";
  std::string config;
  if (files.Exists(config_path)) {
    BANTAM_ASSIGN(config, files.ReadText(config_path, kTokenizerConfigBytesMax));
  }
  BANTAM_ASSIGN(TokenizerSpec spec, ReadTokenizerJson(text, config).With(path));
  return Tokenizer::Make(std::move(spec)).With(path);
}

Result<Tokenizer> OpenSentencePiece(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(const std::string bytes, files.ReadText(path, kSentencePieceBytesMax));
  BANTAM_ASSIGN(TokenizerSpec spec, ReadSentencePieceModel(bytes).With(path));
  return Tokenizer::Make(std::move(spec)).With(path);
}

}  // namespace

Result<Tokenizer> OpenVocabulary(FileSystem& files, const std::string& name) {
  BANTAM_ASSIGN(const std::string found, FindModel(files, name));
  const std::string path = FindInFolder(files, found);
  if (path.ends_with(".json")) return OpenTokenizerJson(files, path);
  if (path.ends_with(".model")) return OpenSentencePiece(files, path);
  BANTAM_ASSIGN(const ModelFile file, OpenModel(files, path));
  return ReadVocabulary(file);
}

}  // namespace bantam
