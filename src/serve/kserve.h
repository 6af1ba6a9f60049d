// The inference protocol, version 2, that KServe and Triton speak: texts as tensors of BYTES in, texts, vectors or classes out. In JSON
// here; gRPC's messages are brought into the same members.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "serve/call.h"
#include "serve/gateway.h"
#include "serve/model_catalog.h"

namespace bantam {

// Each model has one version, "1"; empty is any. Errors: NotFound.
Status CheckInferenceVersion(const std::string& version);

// {"name", "version", "extensions"}
Json InferenceServerJson(const std::string& version);
// {"name", "versions", "platform", "inputs", "outputs"}; of a model that is not in memory without tensors.
Json InferenceModelJson(const CatalogView& view);
// The view of the model of this name that the call's key may use. Errors: NotFound, Denied.
Result<CatalogView> InferenceViewOf(const Gateway& gateway, const Call& call, const std::string& name);
// It takes requests.
bool InferenceReady(const CatalogView& view);

// Asks the call's model: {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape", "data"}], "parameters", "outputs", "id"}. The
// answer is {"model_name", "model_version", "id", "outputs": [{"name", "datatype", "shape", "data"}]}, and `write` makes the body of it.
using WriteInference = std::function<std::string(const Json& answer)>;
void AskInference(Gateway& gateway, const std::shared_ptr<Call>& call, const Json& body, WriteInference write);

}  // namespace bantam
