// What the publishers of encoders (BERT and its kin) call things, and what a folder of any model says of how tokens become a vector, and of
// classes.
#pragma once

#include <string>

#include "base/file.h"
#include "base/result.h"
#include "model/huggingface/families.h"

namespace bantam {

extern const std::span<const NameRule> kEncoderNames;  // of all of them, behind their own
extern const std::span<const NameRule> kBertNames;
extern const std::span<const NameRule> kRobertaNames;
extern const std::span<const NameRule> kDistilBertNames;
extern const std::span<const NameRule> kNomicBertNames;
extern const std::span<const NameRule> kModernBertNames;

Status DescribeBert(const HfConfig& config, Description* description);
Status DescribeRoberta(const HfConfig& config, Description* description);
Status DescribeDistilBert(const HfConfig& config, Description* description);
Status DescribeNomicBert(const HfConfig& config, Description* description);
Status DescribeModernBert(const HfConfig& config, Description* description);

// Rows of the table of positions that stand in front of that of the first token: RoBERTa counts from behind the padding token's id.
Result<uint32_t> PositionsSkipped(const HfFamily& family, const HfConfig& config);

// A matrix behind the pooling, in a folder of its own.
struct DenseModule {
  std::string name;  // of its tensors in the model, without their endings
  std::string path;  // of its safetensors
};

// What sentence-transformers writes beside a model: modules.json (pooling, matrices behind it, and whether vectors have unit length;
// Unsupported for what else may stand there), how long texts may be, and the prompts in front of them.
Status DescribeTextUse(FileSystem& files, const std::string& folder, Description* description, std::vector<DenseModule>* dense);

// What config.json says of a classifier's classes: their labels, and what makes probabilities of scores; of how vectors may be cut.
Status DescribeClasses(const HfConfig& config, Description* description);
Status DescribeDimensions(const HfConfig& config, Description* description);

}  // namespace bantam
