// The peer of `bantam_bench --only tokenizer`: llama.cpp's tokenizer on a text, for vocabularies that it reads. Built where
// BANTAM_LLAMA_CPP names its folder.
//
//   llama_tokenize MODEL TEXT
//
// Prints JSON: {"tokens": of the text, "seconds": of one pass, the vocabulary loaded before}.
#include <llama.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: llama_tokenize MODEL TEXT\n");
    return 2;
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  llama_model* model = llama_model_load_from_file(argv[1], params);
  std::ifstream file(argv[2], std::ios::binary);
  if (model == nullptr || !file) {
    std::fprintf(stderr, "llama_tokenize: cannot read %s or %s\n", argv[1], argv[2]);
    return 3;
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<llama_token> tokens(text.size() + 16);
  const auto begin = std::chrono::steady_clock::now();
  const int n = llama_tokenize(llama_model_get_vocab(model), text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                               static_cast<int32_t>(tokens.size()), /*add_special=*/false, /*parse_special=*/false);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf("{\"tokens\": %d, \"seconds\": %.9f}\n", n, seconds.count());
  llama_model_free(model);
  return n < 0 ? 3 : 0;
}
