// The vocabulary of a Hugging Face folder as GGUF files have it (tokenizer.ggml.*), so that other programs read what is made of a folder.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

// Pairs that view texts of their own.
struct GgmlVocabulary {
  std::deque<std::string> bytes;
  std::vector<MetadataEntry> entries;
};

// Whether the file's vocabulary is a folder's own, under keys that other programs do not know.
bool HasFolderVocabulary(const Metadata& metadata);
// The keys that MakeGgmlVocabulary makes superfluous.
bool IsFolderVocabularyKey(std::string_view key);

// Unsupported where the form of GGUF cannot say what the folder does: a pre-tokenizer without a name, other steps of normalization.
Result<GgmlVocabulary> MakeGgmlVocabulary(const ModelFile& file);

}  // namespace bantam
