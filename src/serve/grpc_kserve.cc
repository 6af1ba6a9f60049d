// inference.GRPCInferenceService: KServe's protocol in gRPC's messages, brought into the members of its JSON (kserve.h) and back.
#include <fmt/format.h>
#include <kserve.pb.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "serve/gateway.h"
#include "serve/grpc_routes.h"
#include "serve/kserve.h"
#include "text/utf8.h"

namespace bantam {
namespace {

using google::protobuf::Map;
using inference::InferParameter;

template <typename Message>
void RespondMessage(const std::shared_ptr<Call>& call, const Message& message) {
  call->Respond({.body = message.SerializeAsString()});
}

void Live(Gateway&, const std::shared_ptr<Call>& call) {
  inference::ServerLiveResponse response;
  response.set_live(true);
  RespondMessage(call, response);
}

void Ready(Gateway& gateway, const std::shared_ptr<Call>& call) {
  inference::ServerReadyResponse response;
  response.set_ready(!gateway.NotReady());
  RespondMessage(call, response);
}

void ShowServer(Gateway& gateway, const std::shared_ptr<Call>& call) {
  inference::ServerMetadataResponse response;
  response.set_name("bantam");
  response.set_version(gateway.options().version);
  RespondMessage(call, response);
}

// The model that a message with "name" and "version" means.
template <typename Request>
Result<CatalogView> ViewOf(const Gateway& gateway, const Call& call) {
  Request request;
  BANTAM_TRY(ReadGrpcMessage(call.request().body, &request));
  BANTAM_TRY(CheckInferenceVersion(request.version()));
  return InferenceViewOf(gateway, call, request.name());
}

void ModelReady(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<CatalogView> view = ViewOf<inference::ModelReadyRequest>(gateway, *call);
  if (!view.ok()) return call->Fail(view.error());
  inference::ModelReadyResponse response;
  response.set_ready(InferenceReady(*view));
  RespondMessage(call, response);
}

template <typename List>
void AddTensors(const Json& tensors, List* into) {
  for (const Json& tensor : tensors) {
    auto* metadata = into->Add();
    metadata->set_name(tensor["name"].get<std::string>());
    metadata->set_datatype(tensor["datatype"].get<std::string>());
    for (const Json& size : tensor["shape"]) metadata->add_shape(size.get<int64_t>());
  }
}

void ShowModel(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<CatalogView> view = ViewOf<inference::ModelMetadataRequest>(gateway, *call);
  if (!view.ok()) return call->Fail(view.error());
  const Json json = InferenceModelJson(*view);
  inference::ModelMetadataResponse response;
  response.set_name(ReplaceInvalidUtf8(view->name));
  for (const Json& version : json["versions"]) response.add_versions(version.get<std::string>());
  response.set_platform(json["platform"].get<std::string>());
  AddTensors(json["inputs"], response.mutable_inputs());
  AddTensors(json["outputs"], response.mutable_outputs());
  RespondMessage(call, response);
}

// ---- ModelInfer ----

Json ParameterJson(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return parameter.bool_param();
    case InferParameter::kInt64Param:
      // What is not negative is as if it had been JSON.
      return parameter.int64_param() < 0 ? Json(parameter.int64_param()) : Json(static_cast<uint64_t>(parameter.int64_param()));
    case InferParameter::kStringParam:
      return parameter.string_param();
    case InferParameter::kDoubleParam:
      return parameter.double_param();
    case InferParameter::kUint64Param:
      return parameter.uint64_param();
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return nullptr;
}

// Elements of BYTES, each behind its length in four bytes, the lowest first.
Result<Json> RawTexts(std::string_view raw, std::string_view member) {
  constexpr size_t kLengthBytes = 4;
  Json texts = Json::array();
  while (!raw.empty()) {
    size_t length = 0;
    for (size_t i = kLengthBytes; i-- > 0 && raw.size() >= kLengthBytes;) length = length << 8 | static_cast<unsigned char>(raw[i]);
    if (raw.size() < kLengthBytes || raw.size() - kLengthBytes < length || texts.size() >= kTextsMax) {
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: expected at most {} texts, each behind its length in four bytes, the lowest first", member, kTextsMax));
    }
    texts.push_back(std::string(raw.substr(kLengthBytes, length)));
    raw.remove_prefix(kLengthBytes + length);
  }
  return texts;
}

Result<Json> InputJson(const inference::ModelInferRequest& request, int i) {
  const auto& tensor = request.inputs(i);
  const std::string member = fmt::format("inputs[{}]", i);
  // Before its bytes are read as what they are not.
  if (tensor.datatype() != "BYTES") {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}.datatype: {}; expected BYTES", member, ReplaceInvalidUtf8(tensor.datatype()).substr(0, 100)));
  }
  Json json = {{"name", tensor.name()}, {"datatype", tensor.datatype()}};
  json["shape"] = Json::array();
  for (const int64_t size : tensor.shape()) json["shape"].push_back(size < 0 ? Json(size) : Json(static_cast<uint64_t>(size)));
  json["data"] = Json::array();
  if (request.raw_input_contents_size() > 0) {
    BANTAM_ASSIGN(json["data"], RawTexts(request.raw_input_contents(i), member));
  } else {
    for (const std::string& text : tensor.contents().bytes_contents()) json["data"].push_back(text);
  }
  for (const Json& text : json["data"]) {
    const std::string& bytes = text.get_ref<const std::string&>();
    if (ReplaceInvalidUtf8(bytes) != bytes) return Error(Code::kInvalidArgument, fmt::format("{}: expected texts in UTF-8", member));
  }
  return json;
}

Result<Json> BodyOf(const inference::ModelInferRequest& request) {
  Json body = {{"inputs", Json::array()}, {"parameters", Json::object()}};
  if (!request.id().empty()) body["id"] = request.id();
  for (const auto& [name, parameter] : request.parameters()) body["parameters"][name] = ParameterJson(parameter);
  for (const auto& output : request.outputs()) body["outputs"].push_back({{"name", output.name()}});
  if (request.raw_input_contents_size() > 0 && request.raw_input_contents_size() != request.inputs_size()) {
    return Error(Code::kInvalidArgument, "raw_input_contents: expected one for each tensor of inputs");
  }
  for (int i = 0; i < request.inputs_size(); ++i) {
    BANTAM_ASSIGN(Json input, InputJson(request, i));
    body["inputs"].push_back(std::move(input));
  }
  return body;
}

void AppendLittleEndian(uint32_t value, std::string* bytes) {
  for (int shift = 0; shift < 32; shift += 8) *bytes += static_cast<char>(value >> shift & 0xff);
}

// The data of a tensor, as the request had its own.
void AddData(const Json& output, bool raw, inference::ModelInferResponse* response) {
  auto* tensor = response->mutable_outputs(response->outputs_size() - 1);
  std::string* bytes = raw ? response->add_raw_output_contents() : nullptr;
  for (const Json& value : output["data"]) {
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      if (raw) {
        AppendLittleEndian(static_cast<uint32_t>(text.size()), bytes);
        *bytes += text;
      } else {
        tensor->mutable_contents()->add_bytes_contents(text);
      }
    } else if (raw) {
      AppendLittleEndian(std::bit_cast<uint32_t>(value.get<float>()), bytes);
    } else {
      tensor->mutable_contents()->add_fp32_contents(value.get<float>());
    }
  }
}

std::string WriteAnswer(const Json& answer, bool raw) {
  inference::ModelInferResponse response;
  response.set_model_name(ReplaceInvalidUtf8(JsonText(answer, "model_name").value_or("")));
  response.set_model_version(JsonText(answer, "model_version").value_or(""));
  response.set_id(JsonText(answer, "id").value_or(""));
  if (answer.contains("parameters")) {
    for (const auto& [name, value] : answer["parameters"].items()) {
      (*response.mutable_parameters())[name].set_int64_param(value.get<int64_t>());
    }
  }
  for (const Json& output : answer["outputs"]) {
    auto* tensor = response.add_outputs();
    tensor->set_name(output["name"].get<std::string>());
    tensor->set_datatype(output["datatype"].get<std::string>());
    for (const Json& size : output["shape"]) tensor->add_shape(size.get<int64_t>());
    AddData(output, raw, &response);
  }
  return response.SerializeAsString();
}

void Infer(Gateway& gateway, const std::shared_ptr<Call>& call) {
  inference::ModelInferRequest request;
  Status status = ReadGrpcMessage(call->request().body, &request);
  if (status.ok()) status = CheckInferenceVersion(request.model_version());
  Result<Json> body = status.ok() ? BodyOf(request) : Result<Json>(status.error());
  if (!body.ok()) return call->Fail(body.error());
  const std::string& name = request.model_name();
  status = gateway.HoldModel(*call, name.empty() ? Json(nullptr) : Json(name));
  if (!status.ok()) return call->Fail(status.error());
  const bool raw = request.raw_input_contents_size() > 0;
  AskInference(gateway, call, *body, [raw](const Json& answer) { return WriteAnswer(answer, raw); });
}

}  // namespace

std::span<const Route> GrpcInferenceRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"GRPC", "/inference.GRPCInferenceService/ServerLive", Role::kAnybody, kQuick, kGrpcDialect, Live},
      {"GRPC", "/inference.GRPCInferenceService/ServerReady", Role::kAnybody, kQuick, kGrpcDialect, Ready},
      {"GRPC", "/inference.GRPCInferenceService/ServerMetadata", Role::kAnybody, kQuick, kGrpcDialect, ShowServer},
      {"GRPC", "/inference.GRPCInferenceService/ModelReady", Role::kUse, kQuick, kGrpcDialect, ModelReady},
      {"GRPC", "/inference.GRPCInferenceService/ModelMetadata", Role::kUse, kQuick, kGrpcDialect, ShowModel},
      {"GRPC", "/inference.GRPCInferenceService/ModelInfer", Role::kUse, kReads, kGrpcDialect, Infer},
  };
  return kRoutes;
}

}  // namespace bantam
