// What the publishers of each family call things: one row per model_type of config.json, which says the architecture in GGUF's words, how
// the tensors are laid out, and what the common rules (describe.cc, tensors.cc) do not cover.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/assembled_source.h"
#include "formats/metadata_builder.h"
#include "model/huggingface/config.h"

namespace bantam {

// How a tensor's rows are to be read (RowOrder).
enum class Arrangement : uint8_t {
  kAsStored,
  kQuery,         // paired within heads where the family's GGUF files are (HfFamily::pairs)
  kKey,           //
  kNorm,          // 1 is added where the family says so
  kQkvGroups,     // one tensor: for each kv head its queries, the key, the value
  kQkvParts,      // one tensor: all queries, all keys, all values
  kByColumns,     // [in, out] instead of [out, in]
  kGateUp,        // one tensor: the gate's rows, then those of up
  kGateUpPairs,   // one tensor by columns: rows of gate and up in turn
  kGateUpBiases,  // one vector per expert: of gate and up in turn
  kExpertsByColumns,
  kHeadNorms,  // a tensor per head, in one
  kTaps,       // [columns, 1, taps] of a convolution
  kMinusExp,   // -exp of what is stored
  kPositions,  // without the rows in front of the first position (HfFamily::positions_behind_padding)
  kColumn,     // a vector that is a matrix of one column
  kMinusExpColumn,
  kStateGroups,    // a vector as a row per group of a state space (HfLayout::state_groups)
  kWithoutSuffix,  // by the GGUF name as it is
  kIgnored,
};

// Which heads of values a tensor has, where several share a key: published files have those of one key beside each other, GGUF files the
// first of every key, then the second of every key (HfLayout::value_heads).
enum class ValueHeads : uint8_t {
  kNotHeads,
  kEach,            // a row per head
  kRows,            // rows of heads
  kRowsBehindKeys,  // the same, behind those of queries and keys
  kColumns,
};

// Names without the layer's prefix, and without ".weight" or ".bias" where a tensor ends so; numbers of experts and heads are "#". Where
// one tensor becomes several, `gguf` is empty.
struct NameRule {
  std::string_view published;
  std::string_view gguf;
  Arrangement arrangement = Arrangement::kAsStored;
  ValueHeads values = ValueHeads::kNotHeads;
};

// What the rows of a tensor are multiplied with, by the name of its rule.
struct TensorFactors {
  std::string_view published;
  std::vector<RowFactor> factors;
};

// A member that is true or false says whether there are tensors.
struct TensorsSaid {
  std::string_view member;             // as in HfConfig::At
  std::string_view tensors;            // how their GGUF names end
  bool of_absence = false;             // true says that there are none
  std::string_view only_without = {};  // has a say where this member is false
};

// Sets "<architecture>.<key>".
class Description {
 public:
  Description(std::string_view architecture, MetadataBuilder* metadata) : architecture_(architecture), metadata_(metadata) {}
  void Count(std::string_view key, uint32_t value) { metadata_->SetCount(Key(key), value); }
  // The member that the value of a key comes from: for errors.
  void Member(std::string_view key, std::string_view member) { metadata_->SetMember(Key(key), member); }
  void Number(std::string_view key, double value) { metadata_->SetNumber(Key(key), value); }
  void Flag(std::string_view key, bool value) { metadata_->SetFlag(Key(key), value); }
  void Text(std::string_view key, std::string value) { metadata_->SetText(Key(key), std::move(value)); }
  void Numbers(std::string_view key, std::vector<float> values) { metadata_->SetNumbers(Key(key), std::move(values)); }
  void Texts(std::string_view key, std::vector<std::string> values) { metadata_->SetTexts(Key(key), std::move(values)); }
  void Counts(std::string_view key, std::vector<uint32_t> values) { metadata_->SetCounts(Key(key), std::move(values)); }

 private:
  std::string Key(std::string_view key) const { return std::string(architecture_) + "." + std::string(key); }
  std::string_view architecture_;
  MetadataBuilder* metadata_;
};

struct HfFamily {
  std::string_view model_type;
  std::string_view architecture;
  // Names of the activation that the family is run with, as hidden_act and its kin give them.
  std::string_view activations;
  bool pairs = false;             // GGUF files have rows of queries and keys in pairs, published ones in halves
  bool norms_add_one = false;     // to the weights
  bool names_activation = false;  // it is run with the one that config.json names, not with what GGUF files of the family take for it
  bool own_activation = false;    // hidden_activation names it, or the family does: hidden_act has no say
  bool always_biased = false;     // queries, keys and values, whatever attention_bias says
  bool attention = true;          // some layers have heads
  bool encoder = false;           // of whole texts: no output matrix, and modules.json says what becomes of the tokens
  bool positions_behind_padding = false;
  uint32_t feed_forward_widths = 0;  // of the model's width, where config.json does not say; 0: it must
  // What its publisher's code takes for members that config.json leaves out, as JSON; others have to be there, or have no say.
  std::string_view defaults = {};
  // Members that, where they are there, must be this, or one of these, as JSON: the family is run so alone. Names are as in HfConfig::At.
  std::string_view fixed = {};
  std::span<const TensorsSaid> said = {};
  std::span<const NameRule> names = {};  // in front of the common ones
  // What the common rules do not say.
  Status (*describe)(const HfConfig& config, Description* description) = nullptr;
  // Factors that its publisher's code multiplies with as it runs, and GGUF files have in their weights.
  Status (*factors)(const HfConfig& config, std::vector<TensorFactors>* factors) = nullptr;
};

// Unsupported names the closest that are known.
Result<const HfFamily*> FindHfFamily(const std::string& model_type);

// The first whose models are of an architecture, or null: names of tensors are those of all of them.
const HfFamily* HfFamilyOf(std::string_view architecture);

// The rule for a tensor of a family, or null. `published` is as in NameRule.
const NameRule* FindNameRule(const HfFamily& family, std::string_view published);

}  // namespace bantam
