#include "text/pre_tokenizers.h"

#include <algorithm>
#include <iterator>

namespace bantam {

// Where a published pattern ends with \s+(?!\S) alone, the single space that is left over is a part all the same.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view kGpt2Pattern = kGpt2;

namespace {

constexpr std::string_view kGpt2Steps[] = {kGpt2};
constexpr std::string_view kDigitsThenGpt2[] = {R"(\p{N})", kGpt2};
constexpr std::string_view kLlama3[] = {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
                                        R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kQwen2[] = {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
                                       R"(|\s+(?!\S)|\s+)"};
constexpr std::string_view kQwen35[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kUfakzeka[] = {R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kLaguna[] = {R"([^\n]+|[\n]+)", kQwen2[0]};
constexpr std::string_view kMinicpm5[] = {R"(\p{N}{1,3})",
                                          R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*)"
                                          R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kSeedCoder[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)"};
constexpr std::string_view kBailing[] = {
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"};
constexpr std::string_view kExaoneMoe[] = {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N})"
                                           R"(| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)"};
constexpr std::string_view kJais2[] = {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
                                       R"(|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S))"
                                       R"(|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})"};
constexpr std::string_view kGpt4o[] = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)"
    R"(|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s)"
    R"(|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kTinyAya[] = {R"(\d{1,3}(?=(?:\d{3})*\b))", kGpt4o[0]};
constexpr std::string_view kTekken[] = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt})"
    R"(\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)"};
constexpr std::string_view kYoutu[] = {
    R"([\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A})"
    R"(\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F})"
    R"(\x{30A0}-\x{30FF}]+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)"
    R"(|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s)"
    R"(|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
// All cased letters, but for a few: the classes come from the model as they are.
constexpr std::string_view kDeepseekLlm[] = {
    R"([\r\n])",
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-)"
    R"(\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-)"
    R"(\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20})"
    R"(-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-)"
    R"(\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-)"
    R"(\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128})"
    R"(\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-)"
    R"(\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41})"
    R"(-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
    R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)",
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)",
    R"(\s+$)",
    R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)",
    R"(\p{N}+)"};
constexpr std::string_view kDeepseekCoder[] = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                               R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)", R"(\p{N})"};
constexpr std::string_view kDeepseek3[] = {
    R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kSpark[] = {
    R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+)"
    R"(|[\r\n]|\s+(?!\S)|\s+)",
    R"(\p{N})"};
constexpr std::string_view kFalcon[] = {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, R"([0-9][0-9][0-9])"};
constexpr std::string_view kBloom[] = {R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)"};
constexpr std::string_view kViking[] = {kBloom[0], R"(\p{N})"};
// Behind the model's own marks of images and layout.
constexpr std::string_view kChameleon[] = {
    R"(<sentinel:[0-9]+>)", R"(IMGIMG[A-I]{1,4}Z)", R"([\t\n]|    |  )", R"(\p{N})", R"([\p{P}!-/:-@\[-`{-~])", kGpt2};
constexpr std::string_view kLines[] = {R"([^\n]+|[\n]+)"};
constexpr std::string_view kDefault[] = {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"};

constexpr NamedPreTokenizer kNamed[] = {{"default", kDefault},
                                        {"llama3", kLlama3, true, true},
                                        {"llama-v3", kLlama3, true, true},
                                        {"llama-bpe", kLlama3, true, true},
                                        {"falcon3", kLlama3, true, true},
                                        {"falcon-h1", kLlama3, true, true},
                                        {"pixtral", kLlama3, true, true},
                                        {"midm-2.0", kLlama3, true, true},
                                        {"lfm2", kLlama3, true, true},
                                        {"jina-v5-nano", kLlama3, true, true},
                                        {"jais-2", kJais2},
                                        {"dbrx", kLlama3},
                                        {"smaug-bpe", kLlama3},
                                        {"glm4", kLlama3},
                                        {"chatglm-bpe", kLlama3},
                                        {"minicpm5", kMinicpm5, true},
                                        {"deepseek-llm", kDeepseekLlm},
                                        {"deepseek-coder", kDeepseekCoder},
                                        {"deepseek-v3", kDeepseek3},
                                        {"hunyuan-dense", kDeepseek3},
                                        {"joyai-llm", kDeepseek3},
                                        {"hy_v4", kDeepseek3},
                                        {"spark2_5", kSpark},
                                        {"youtu", kYoutu, true},
                                        {"falcon", kFalcon},
                                        {"gpt-2", kGpt2Steps},
                                        {"phi-2", kGpt2Steps},
                                        {"jina-es", kGpt2Steps},
                                        {"jina-de", kGpt2Steps},
                                        {"gigachat", kGpt2Steps},
                                        {"jina-v2-es", kGpt2Steps},
                                        {"jina-v2-de", kGpt2Steps},
                                        {"jina-v1-en", kGpt2Steps},
                                        {"jina-v2-code", kGpt2Steps},
                                        {"roberta-bpe", kGpt2Steps},
                                        {"a.x-4.0", kGpt2Steps},
                                        {"mellum", kGpt2Steps},
                                        {"modern-bert", kGpt2Steps},
                                        {"mpt", kGpt2Steps},
                                        {"olmo", kGpt2Steps},
                                        {"jais", kGpt2Steps},
                                        {"trillion", kGpt2Steps},
                                        {"granite-docling", kGpt2Steps},
                                        {"exaone4", kGpt2Steps},
                                        {"starcoder", kDigitsThenGpt2},
                                        {"refact", kDigitsThenGpt2},
                                        {"command-r", kDigitsThenGpt2},
                                        {"smollm", kDigitsThenGpt2},
                                        {"codeshell", kDigitsThenGpt2},
                                        {"exaone", kDigitsThenGpt2},
                                        {"minerva-7b", kDigitsThenGpt2},
                                        {"mellum2", kDigitsThenGpt2},
                                        {"granite", kDigitsThenGpt2},
                                        {"qwen2", kQwen2},
                                        {"deepseek-r1-qwen", kQwen2},
                                        {"kormo", kQwen2},
                                        {"f2llmv2", kQwen2},
                                        {"stablelm2", kQwen2},
                                        {"megrez", kQwen2},
                                        {"hunyuan", kQwen2},
                                        {"solar-open", kQwen2},
                                        {"grok-2", kQwen2},
                                        {"qwen35", kQwen35},
                                        {"ufakzeka", kUfakzeka},
                                        {"laguna", kLaguna},
                                        {"seed-coder", kSeedCoder},
                                        {"bailingmoe", kBailing},
                                        {"bailingmoe2", kBailing},
                                        {"llada-moe", kBailing},
                                        {"exaone-moe", kExaoneMoe},
                                        {"poro-chat", kBloom},
                                        {"bloom", kBloom},
                                        {"gpt3-finnish", kBloom},
                                        {"viking", kViking},
                                        {"tekken", kTekken, true, true},
                                        {"gpt-4o", kGpt4o},
                                        {"llama4", kGpt4o},
                                        {"kanana2", kGpt4o},
                                        {"talkie", kGpt4o},
                                        {"minimax-m2", kGpt4o},
                                        {"granite-embed-multi-97m", kGpt4o, true},
                                        {"tiny_aya", kTinyAya},
                                        {"cohere2moe", kTinyAya},
                                        {"chameleon", kChameleon, false, true},
                                        {"gemma4", kLines, false, true},
                                        {"granite-embed-multi-311m", kLines, false, true},
                                        {"sarvam-moe", kLines}};

}  // namespace

const NamedPreTokenizer* FindPreTokenizer(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kNamed), std::end(kNamed), [&](const NamedPreTokenizer& named) { return named.name == name; });
  return found == std::end(kNamed) ? nullptr : found;
}

std::span<const NamedPreTokenizer> NamedPreTokenizers() { return kNamed; }

}  // namespace bantam
