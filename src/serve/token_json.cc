#include "serve/token_json.h"

#include <utility>

namespace bantam {
namespace {

Json TokenJson(const Tokenizer& tokenizer, const TokenLogprob& token) {
  const std::string text = TokenBytes(tokenizer, token.token);
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", token.logprob}, {"bytes", std::move(bytes)}};
}

}  // namespace

std::string TokenBytes(const Tokenizer& tokenizer, uint32_t token) {
  std::string raw;
  tokenizer.AppendRaw(token, /*special=*/true, &raw);
  return tokenizer.Unmark(raw);
}

Json LogprobsJson(const Tokenizer& tokenizer, std::span<const TokenInfo> tokens) {
  Json list = Json::array();
  for (const TokenInfo& info : tokens) {
    Json token = TokenJson(tokenizer, info.chosen);
    token["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : info.top) token["top_logprobs"].push_back(TokenJson(tokenizer, top));
    list.push_back(std::move(token));
  }
  return list;
}

}  // namespace bantam
