// A hostile model file, all the way: header, vocabulary, config, lowering, plan, weights, and two tokens.
#include "formats/gguf.h"
#include "run_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bantam::MemoryFiles files(data, size);
  auto file = bantam::OpenGguf(files, "input.gguf");
  if (file.ok()) bantam::RunModel(*file, size);
  return 0;
}
