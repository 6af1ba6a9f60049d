// A hostile chat template on ordinary messages: it ends within its limits, whatever it does.
#include <cstdint>
#include <string_view>

#include "text/jinja.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bantam;
  using namespace bantam::jinja;
  const auto parsed = Template::Parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  static const Value context = FromJson(Json::parse(R"({"messages": [{"role": "user", "content": "H\u00e9llo <s>"},
      {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5, null, true]}}}]}],
      "tools": [{"type": "function", "function": {"name": "f"}}], "add_generation_prompt": true, "bos_token": "<s>", "n": 3})"));
  RenderOptions options;
  options.limits = {.steps = 20'000, .bytes = 1 << 20, .output_bytes = 1 << 18, .depth = 400};
  (void)parsed->Render(*context.dict(), options).ok();
  return 0;
}
