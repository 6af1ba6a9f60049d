#include "model/huggingface/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "model/config.h"
#include "model/huggingface/config.h"

namespace bantam {
namespace {

constexpr size_t kSchemesMax = 64;

Error NotRead(std::string_view what) {
  return Error(
      Code::kUnsupported,
      fmt::format("weights quantised with {} (quantization_config) are not supported; fetch the model unquantised, or as GGUF", what));
}

// -1 stands for all columns.
Result<uint32_t> ReadGroup(const Json& member, HfConfig::Names names) {
  for (const char* name : names) {
    if (JsonMember(member, name) == -1) return 0u;
  }
  BANTAM_ASSIGN(const auto group, HfConfig::CountOf(member, names));
  if (!group) return Error(Code::kCorrupt, fmt::format("quantization_config.{} is missing", *names.begin()));
  if (*group == 0 || *group > kWidthMax) {
    return Error(Code::kCorrupt, fmt::format("quantization_config.{}: {}, expected -1 or 1 to {}", *names.begin(), *group, kWidthMax));
  }
  return *group;
}

Result<uint32_t> ReadBits(const Json& member, HfConfig::Names names, std::initializer_list<uint32_t> known) {
  BANTAM_ASSIGN(const auto bits, HfConfig::CountOf(member, names));
  if (!bits) return Error(Code::kCorrupt, fmt::format("quantization_config.{} is missing", *names.begin()));
  for (const uint32_t of : known) {
    if (of == *bits) return *bits;
  }
  return NotRead(fmt::format("{} bits", *bits));
}

Status ReadGptq(const Json& member, HfQuantization* quantization) {
  BANTAM_ASSIGN(quantization->bits, ReadBits(member, {"bits"}, {2, 3, 4, 8}));
  BANTAM_ASSIGN(quantization->group, ReadGroup(member, {"group_size"}));
  const std::string format = JsonText(member, "checkpoint_format").value_or(JsonText(member, "format").value_or("gptq"));
  if (format != "gptq" && format != "gptq_v2") return NotRead(fmt::format("checkpoint_format {}", format));
  if (JsonFlag(member, "is_marlin_format", false)) return NotRead("is_marlin_format");
  quantization->zero_less_one = format == "gptq";
  quantization->ordered = JsonFlag(member, "desc_act", false);
  if (JsonMember(member, "sym").is_boolean()) quantization->symmetric = JsonFlag(member, "sym", false);
  const Json& dynamic = JsonMember(member, "dynamic");
  quantization->mixed = dynamic.is_object() && !dynamic.empty();
  return Ok();
}

Status ReadAwq(const Json& member, HfQuantization* quantization) {
  BANTAM_ASSIGN(quantization->bits, ReadBits(member, {"bits", "w_bit"}, {4}));
  BANTAM_ASSIGN(quantization->group, ReadGroup(member, {"group_size", "q_group_size"}));
  std::string version = JsonText(member, "version").value_or("gemm");
  for (char& letter : version) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : letter);
  if (!JsonFlag(member, "zero_point", true)) quantization->symmetric = true;
  if (version != "gemm" && version != "gemv") return NotRead(fmt::format("version {} of AWQ", version));
  quantization->rows_packed = version == "gemv";
  return Ok();
}

// AutoRound writes what others read, and says whose.
Status ReadAutoRound(const Json& member, HfQuantization* quantization) {
  const std::string packing = JsonText(member, "packing_format").value_or("auto_round");
  if (packing != "auto_round:auto_gptq" && packing != "auto_round:auto_awq") return NotRead(fmt::format("packing_format {}", packing));
  const bool gptq = packing == "auto_round:auto_gptq";
  quantization->method = gptq ? QuantMethod::kGptq : QuantMethod::kAwq;
  BANTAM_TRY(gptq ? ReadGptq(member, quantization) : ReadAwq(member, quantization));
  const Json& others = JsonMember(member, "extra_config");
  if (others.is_object() && !others.empty()) quantization->mixed = true;
  return Ok();
}

// Two numbers, or "128x128".
Status ReadBlock(const Json& member, const char* name, HfQuantization* quantization) {
  const Json& size = JsonMember(member, name);
  if (size.is_null()) return Ok();
  QuantBlock block;
  if (size.is_array() && size.size() == 2 && size[0].is_number_unsigned() && size[1].is_number_unsigned()) {
    block = {static_cast<uint32_t>(std::min<uint64_t>(size[0].get<uint64_t>(), UINT32_MAX)),
             static_cast<uint32_t>(std::min<uint64_t>(size[1].get<uint64_t>(), UINT32_MAX))};
  } else if (size.is_string()) {
    const std::string& text = size.get_ref<const std::string&>();
    const char* end = text.data() + text.size();
    const auto [cross, first] = std::from_chars(text.data(), end, block.rows);
    const auto [behind, second] = std::from_chars(std::min(cross + 1, end), end, block.columns);
    if (first != std::errc() || second != std::errc() || *cross != 'x' || behind != end) block = {};
  }
  if (block.rows == 0 || block.rows > kWidthMax || block.columns == 0 || block.columns > kWidthMax) {
    return Error(Code::kCorrupt,
                 fmt::format("quantization_config.{}: {}, expected two whole numbers of 1 to {}", name, ShortJson(size), kWidthMax));
  }
  quantization->blocks.push_back(block);
  return Ok();
}

Status ReadScheme(const std::string& name, const Json& group, HfQuantization* quantization) {
  const Json& weights = JsonMember(group, "weights");
  if (weights.is_null()) return Ok();  // of activations alone
  QuantScheme scheme;
  BANTAM_ASSIGN(const auto bits, HfConfig::CountOf(weights, {"num_bits"}));
  scheme.bits = bits.value_or(8);
  scheme.floats = JsonText(weights, "type").value_or("int") == "float";
  scheme.symmetric = JsonFlag(weights, "symmetric", true);
  const bool whole_rows = JsonMember(weights, "group_size") == -1;
  if (!whole_rows) {
    BANTAM_ASSIGN(const auto columns, HfConfig::CountOf(weights, {"group_size"}));
    scheme.group = columns.value_or(0);
  }
  scheme.strategy = JsonText(weights, "strategy").value_or(whole_rows ? "channel" : (scheme.group == 0 ? "tensor" : "group"));
  const bool known = scheme.floats ? scheme.bits == 8 : scheme.bits == 2 || scheme.bits == 4 || scheme.bits == 8;
  if (!known) return NotRead(fmt::format("{}-bit {} ({})", scheme.bits, scheme.floats ? "floats" : "integers", name));
  if (scheme.strategy == "block") {
    BANTAM_TRY(ReadBlock(weights, "block_structure", quantization));
  } else if (scheme.strategy != "tensor" && scheme.strategy != "channel" && scheme.strategy != "group") {
    return NotRead(fmt::format("strategy {} ({})", scheme.strategy, name));
  }
  quantization->schemes.push_back(std::move(scheme));
  return Ok();
}

Status ReadCompressed(const Json& member, HfQuantization* quantization) {
  const std::string sparsity = JsonText(JsonMember(member, "sparsity_config"), "format").value_or("dense");
  if (sparsity != "dense") return NotRead(fmt::format("sparsity_config of format {}", sparsity));
  // Rotations that are multiplied with as the model runs.
  const Json& transforms = JsonMember(JsonMember(member, "transform_config"), "config_groups");
  if (transforms.is_object() && !transforms.empty()) return NotRead("transform_config");
  const std::string format = JsonText(member, "format").value_or("dense");
  for (const std::string_view known :
       {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense", "mixed-precision"}) {
    if (format != known) continue;
    const Json& groups = JsonMember(member, "config_groups");
    const bool of_kv = JsonMember(member, "kv_cache_scheme").is_object();
    if (of_kv && (groups.is_null() || (groups.is_object() && groups.empty()))) {
      quantization->of_kv_alone = true;
      return Ok();
    }
    if (!groups.is_object() || groups.empty() || groups.size() > kSchemesMax) {
      return Error(Code::kCorrupt, fmt::format("quantization_config.config_groups: expected 1 to {} groups", kSchemesMax));
    }
    for (const auto& [name, group] : groups.items()) {
      BANTAM_TRY(ReadScheme(name, group, quantization));
    }
    quantization->of_kv_alone = quantization->schemes.empty();
    return Ok();
  }
  return NotRead(fmt::format("format {} of compressed-tensors", format));
}

Status ReadFp8(const Json& member, HfQuantization* quantization) {
  const std::string format = JsonText(member, "fmt").value_or("e4m3");
  if (format != "e4m3" && format != "e5m2") return NotRead(fmt::format("fmt {}", format));
  return ReadBlock(member, "weight_block_size", quantization);
}

// As transformers packs it: models trained so multiply with their scale, those that were converted divide by it.
Status ReadBitNet(const Json& member, HfQuantization* quantization) {
  const std::string linear = JsonText(member, "linear_class").value_or("bitlinear");
  const std::string mode = JsonText(member, "quantization_mode").value_or("offline");
  if (linear != "bitlinear" && linear != "autobitlinear") return NotRead(fmt::format("linear_class {} of BitNet", linear));
  if (linear == "autobitlinear" && mode != "offline") {
    return NotRead(fmt::format("quantization_mode {} of BitNet, whose weights are those of training", mode));
  }
  quantization->scale_divides = linear == "bitlinear";
  return Ok();
}

Status ReadNothing(const Json&, HfQuantization*) { return Ok(); }

struct Reader {
  std::string_view name;
  QuantMethod method;
  Status (*read)(const Json&, HfQuantization*);
};
constexpr Reader kReaders[] = {
    {"gptq", QuantMethod::kGptq, ReadGptq},
    {"awq", QuantMethod::kAwq, ReadAwq},
    {"auto-round", QuantMethod::kGptq, ReadAutoRound},
    {"bitsandbytes", QuantMethod::kBitsAndBytes, ReadNothing},
    {"compressed-tensors", QuantMethod::kCompressedTensors, ReadCompressed},
    {"fp8", QuantMethod::kFp8, ReadFp8},
    {"fbgemm_fp8", QuantMethod::kFp8, ReadNothing},
    {"mxfp4", QuantMethod::kMxfp4, ReadNothing},
    {"bitnet", QuantMethod::kBitNet, ReadBitNet},
};

}  // namespace

Result<HfQuantization> ReadQuantization(const Json& member) {
  HfQuantization quantization;
  if (member.is_null()) return quantization;
  if (!member.is_object()) return Error(Code::kCorrupt, "quantization_config: expected an object");
  quantization.name = JsonText(member, "quant_method").value_or("an unnamed method");
  for (const Reader& reader : kReaders) {
    if (reader.name != quantization.name) continue;
    quantization.method = reader.method;
    BANTAM_TRY(reader.read(member, &quantization));
    return quantization;
  }
  return Error(Code::kUnsupported, fmt::format("weights quantised by {} (quantization_config) are not supported; fetch the model "
                                               "unquantised, or as GGUF",
                                               quantization.name));
}

}  // namespace bantam
