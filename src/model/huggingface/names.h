// What the publishers of decoders call their tensors.
#pragma once

#include <span>

#include "model/huggingface/families.h"

namespace bantam {

extern const std::span<const NameRule> kCommonNames;  // of all of them, behind their own
extern const std::span<const NameRule> kGpt2Names;
extern const std::span<const NameRule> kNormsBehind;  // norms behind attention and feed-forward
extern const std::span<const NameRule> kFalconNames;
extern const std::span<const NameRule> kLfm2Names;
extern const std::span<const NameRule> kMambaNames;
extern const std::span<const NameRule> kBitNetNames;
extern const std::span<const NameRule> kGptOssNames;

}  // namespace bantam
