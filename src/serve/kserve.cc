#include "serve/kserve.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/json_members.h"
#include "serve/answer.h"
#include "serve/dialects.h"
#include "serve/routes.h"

namespace bantam {
namespace {

// One version of each model takes requests.
constexpr char kVersion[] = "1";
constexpr size_t kOutputsMax = 16;
constexpr char kTextInput[] = "text_input";
constexpr char kTextOutput[] = "text_output";

std::string ErrorBody(const ApiError& error) { return DumpJson({{"error", error.message}}, /*indent=*/-1); }
std::string ErrorEvent(const ApiError& error) { return fmt::format("data: {}\n\n", ErrorBody(error)); }

// What a request asks for.
struct InferenceRequest {
  std::string id = {};
  std::vector<std::string> texts = {};
  Json parameters = Json::object();
  std::vector<std::string> outputs = {};  // names; none: all
};

// Of a model's outputs, by what it makes.
constexpr std::string_view kOutputsOfText[] = {kTextOutput, "finish_reason"};
constexpr std::string_view kOutputsOfVectors[] = {"embedding"};
constexpr std::string_view kOutputsOfClasses[] = {"label", "score"};

std::span<const std::string_view> OutputsOf(const ServedModel& model) {
  if (model.Answers()) return kOutputsOfText;
  const bool vectors = model.texts != nullptr && model.texts->context().work == TextWork::kVectors;
  return vectors ? std::span<const std::string_view>(kOutputsOfVectors) : kOutputsOfClasses;
}

Status CheckOutputs(const InferenceRequest& request, const ServedModel& model) {
  const auto known = OutputsOf(model);
  for (const std::string& name : request.outputs) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return WrongMember("outputs", Json(name), fmt::format("names of {}", fmt::join(known, ", ")));
  }
  return Ok();
}

// Leaves the outputs that were asked for, or all.
Json OnlyOutputs(Json outputs, const std::vector<std::string>& wanted) {
  if (wanted.empty()) return outputs;
  Json left = Json::array();
  for (Json& output : outputs) {
    if (std::find(wanted.begin(), wanted.end(), output["name"].get<std::string>()) != wanted.end()) left.push_back(std::move(output));
  }
  return left;
}

// Of tensors that come as bytes behind the JSON, and of outputs that are wanted so: the answer may be JSON whatever a client prefers.
constexpr const char* kBinaryOutputs[] = {"binary_data", "binary_data_output"};

Status ReadTexts(const Json& tensor, const std::string& member, std::vector<std::string>* texts) {
  if (JsonText(tensor, "datatype") != "BYTES") return WrongMember(member + ".datatype", JsonMember(tensor, "datatype"), "\"BYTES\"");
  if (!JsonMember(JsonMember(tensor, "parameters"), "binary_data_size").is_null()) {
    return Error(Code::kUnsupported, fmt::format("{}: tensors in binary form are not read; send \"data\" as JSON, or use gRPC", member));
  }
  const Json& data = JsonMember(tensor, "data");
  const Json& shape = JsonMember(tensor, "shape");
  if (!data.is_array()) return WrongMember(member + ".data", data, "a list of texts");
  uint64_t elements = 1;
  for (const Json& size : shape) {
    BANTAM_ASSIGN(const uint64_t count, ReadWhole(member + ".shape", size, 0, kTextsMax));
    elements *= count;
    if (elements > kTextsMax) return WrongMember(member + ".shape", shape, fmt::format("at most {} texts", kTextsMax));
  }
  if (!shape.is_array() || shape.empty() || shape.size() > 2 || elements != data.size()) {
    return WrongMember(member + ".shape", shape, fmt::format("the shape of {} texts, such as [{}]", data.size(), data.size()));
  }
  for (const Json& text : data) {
    if (!text.is_string()) return WrongMember(member + ".data", text, "a text");
    texts->push_back(text.get<std::string>());
  }
  return Ok();
}

Status AddParameters(const Json& parameters, std::string_view member, Json* into) {
  if (parameters.is_null()) return Ok();
  if (!parameters.is_object()) return WrongMember(member, parameters, "an object");
  for (const auto& [name, value] : parameters.items()) (*into)[name] = value;
  return Ok();
}

// What these servers call otherwise, and what says nothing here.
Status RenameParameters(Json* parameters) {
  for (const char* name : kBinaryOutputs) parameters->erase(name);
  const Json exclude = TakeMember(parameters, "exclude_input_in_output");
  if (!exclude.is_null()) {
    BANTAM_ASSIGN(const bool without, ReadFlag("exclude_input_in_output", exclude));
    if (!without) (*parameters)["echo"] = true;
  }
  for (const char* name : {"prompt", "messages", "model", "input", "classify"}) {
    if (parameters->contains(name)) return WrongMember(name, "...", "nothing: the text is a tensor, and the model stands in the path");
  }
  return Ok();
}

Result<InferenceRequest> ReadInferenceRequest(const Json& body) {
  BANTAM_TRY(CheckMembers(body, {"id", "parameters", "inputs", "outputs"}));
  InferenceRequest request;
  if (!JsonMember(body, "id").is_null()) {
    BANTAM_ASSIGN(request.id, ReadText("id", body["id"]));
  }
  BANTAM_TRY(AddParameters(JsonMember(body, "parameters"), "parameters", &request.parameters));
  const Json& outputs = JsonMember(body, "outputs");
  if (!outputs.is_null() && (!outputs.is_array() || outputs.size() > kOutputsMax))
    return WrongMember("outputs", outputs, "a list of some of them");
  const Json& inputs = JsonMember(body, "inputs");
  if (!inputs.is_array()) return WrongMember("inputs", inputs, "a list of tensors, of which one is text_input");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string member = fmt::format("inputs[{}]", i);
    const std::string name = JsonText(inputs[i], "name").value_or("");
    std::vector<std::string> others;
    if (name == kTextInput && request.texts.empty()) {
      BANTAM_TRY(ReadTexts(inputs[i], member, &request.texts));
    } else if (name == "sampling_parameters") {
      // As Triton's clients of other engines send them: JSON in a tensor.
      BANTAM_TRY(ReadTexts(inputs[i], member, &others));
      const Result<Json> json = ParseJson(others.empty() ? "" : others[0]);
      BANTAM_TRY(AddParameters(json.ok() ? *json : Json("..."), member, &request.parameters));
    } else {
      return WrongMember(member + ".name", JsonMember(inputs[i], "name"), "\"text_input\", once, or \"sampling_parameters\"");
    }
  }
  for (const Json& output : outputs) {
    BANTAM_ASSIGN(std::string name, ReadText("outputs", JsonMember(output, "name")));
    request.outputs.push_back(std::move(name));
  }
  if (request.texts.empty()) return WrongMember("inputs", "...", "a tensor \"text_input\" with a text");
  BANTAM_TRY(RenameParameters(&request.parameters));
  return request;
}

Json Head(const std::string& model, const std::string& id) {
  Json head = {{"model_name", model}, {"model_version", kVersion}};
  if (!id.empty()) head["id"] = id;
  return head;
}

Json Tensor(const char* name, const char* datatype, Json shape, Json data) {
  return {{"name", name}, {"datatype", datatype}, {"shape", std::move(shape)}, {"data", std::move(data)}};
}

// An answer as tensors, or as the text that the extension "generate" has.
class InferenceWriter final : public AnswerWriter {
 public:
  InferenceWriter(std::string model, InferenceRequest request, bool tensors, WriteInference write)
      : model_(std::move(model)),
        id_(std::move(request.id)),
        outputs_(std::move(request.outputs)),
        tensors_(tensors),
        write_(std::move(write)) {}

  std::string Add(const AnswerDelta& delta) override {
    if (delta.output.content.empty() && delta.finish == nullptr) return "";
    Json event = Head(model_, id_);
    event[kTextOutput] = delta.output.content;
    if (delta.finish != nullptr) event["finish_reason"] = FinishReasonOf(*delta.finish, /*called=*/false);
    return fmt::format("data: {}\n\n", DumpJson(event, /*indent=*/-1));
  }
  std::string End(const AnswerUsage&) override { return ""; }
  std::optional<std::string> Break(const ApiError& error) override { return ErrorEvent(error); }
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override {
    Json whole = Head(model_, id_);
    Json texts = Json::array();
    Json reasons = Json::array();
    for (const AnswerChoice& choice : choices) {
      texts.push_back(choice.output.content);
      reasons.push_back(FinishReasonOf(choice.finish, /*called=*/false));
    }
    if (tensors_) {
      const Json shape = Json::array({choices.size()});
      whole["parameters"] = {{"prompt_tokens", usage.prompt_tokens}, {"generated_tokens", usage.generated_tokens}};
      whole["outputs"] = OnlyOutputs(
          Json::array({Tensor(kTextOutput, "BYTES", shape, std::move(texts)), Tensor("finish_reason", "BYTES", shape, std::move(reasons))}),
          outputs_);
    } else {
      whole[kTextOutput] = texts[0];
      whole["finish_reason"] = reasons[0];
    }
    return whole;
  }
  std::string WholeBody(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override { return write_(Whole(choices, usage)); }

 private:
  const std::string model_;
  const std::string id_;
  const std::vector<std::string> outputs_;
  const bool tensors_;
  const WriteInference write_;
};

std::string WriteJson(const Json& json) { return DumpJson(json, /*indent=*/-1); }

struct AnswerForm {
  bool tensors = true;
  bool stream = false;
};

Status AskForText(Gateway& gateway, const std::shared_ptr<Call>& call, InferenceRequest request, AnswerForm form, WriteInference write) {
  AnswerRequest asked;
  BANTAM_ASSIGN(asked.model, Gateway::AnsweringModelOf(*call));
  if (request.texts.size() != 1) return WrongMember("text_input", Json(request.texts.size()), "one text: a prompt");
  Json members = std::move(request.parameters);
  Gateway::AddHeaderMembers(call->request(), &members);
  members["prompt"] = std::move(request.texts[0]);
  asked.stream = form.stream;
  BANTAM_ASSIGN(asked.plan, ReadCompletionRequest(std::move(members), {*asked.model, LocalTime()}));
  if (!form.tensors && asked.plan.request.choices != 1) return WrongMember("n", Json(asked.plan.request.choices), "1");
  asked.writer = std::make_unique<InferenceWriter>(asked.model->name, std::move(request), form.tensors, std::move(write));
  gateway.Ask(call, std::move(asked));
  return Ok();
}

// Vectors as they are computed, or the likeliest class of each text, as tensors.
Json TextOutputs(const std::string& members, size_t texts) {
  const Json answer = ParseJson(fmt::format("{{{}}}", members)).value();
  if (const Json& vectors = JsonMember(answer, "embeddings"); !vectors.is_null()) {
    Json data = Json::array();
    for (const Json& vector : vectors) data.insert(data.end(), vector.begin(), vector.end());
    const size_t width = texts == 0 ? 0 : data.size() / texts;
    return Json::array({Tensor("embedding", "FP32", Json::array({texts, width}), std::move(data))});
  }
  Json labels = Json::array();
  Json scores = Json::array();
  for (const Json& classes : answer["labels"]) {
    labels.push_back(classes[0]["label"]);
    scores.push_back(classes[0].contains("score") ? classes[0]["score"] : classes[0]["probability"]);
  }
  const Json shape = Json::array({texts});
  return Json::array({Tensor("label", "BYTES", shape, std::move(labels)), Tensor("score", "FP32", shape, std::move(scores))});
}

void AskForTexts(const Gateway& gateway, const std::shared_ptr<Call>& call, InferenceRequest request, WriteInference write) {
  // What would change the form of the answer, which is that of its tensors.
  for (const char* name : {"encoding_format", "top_n"}) {
    const Json& value = JsonMember(request.parameters, name);
    if (!value.is_null()) return call->Fail(WrongMember(name, value, "nothing: the answer is tensors of one form"));
  }
  const bool classes = call->model->texts != nullptr && call->model->texts->context().work == TextWork::kScores;
  Json body = std::move(request.parameters);
  const size_t count = request.texts.size();
  if (classes) body["top_n"] = uint64_t{1};  // unsigned, as numbers are that JSON brings
  body[classes ? "classify" : "input"] = std::move(request.texts);
  gateway.AskTexts(call, std::move(body), VectorList::kPlain,
                   [name = call->record.model, id = request.id, outputs = request.outputs, count, write](
                       const std::string&, const TextService::Answer& answer) {
                     Json whole = Head(name, id);
                     whole["outputs"] = OnlyOutputs(TextOutputs(answer.members, count), outputs);
                     return write(whole);
                   });
}

// ---- Routes ----

void Live(Gateway&, const std::shared_ptr<Call>& call) { call->RespondJson({{"live", true}}); }

void RespondReady(const std::shared_ptr<Call>& call, bool ready) {
  call->Respond(
      {.status = ready ? 200 : 503, .fields = {{"Content-Type", "application/json"}}, .body = DumpJson({{"ready", ready}}, /*indent=*/-1)});
}

void Ready(Gateway& gateway, const std::shared_ptr<Call>& call) { RespondReady(call, !gateway.NotReady()); }

void ShowServer(Gateway& gateway, const std::shared_ptr<Call>& call) { call->RespondJson(InferenceServerJson(gateway.options().version)); }

// "NAME", or "NAME/versions/VERSION".
Result<std::string> NameOfPath(const Call& call) {
  constexpr std::string_view kVersions = "/versions/";
  const size_t at = call.rest.rfind(kVersions);
  if (at == std::string::npos) return call.rest;
  BANTAM_TRY(CheckInferenceVersion(call.rest.substr(at + kVersions.size())));
  return call.rest.substr(0, at);
}

Result<CatalogView> ViewOfPath(const Gateway& gateway, const Call& call) {
  BANTAM_ASSIGN(const std::string name, NameOfPath(call));
  return InferenceViewOf(gateway, call, name);
}

void ModelReady(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<CatalogView> view = ViewOfPath(gateway, *call);
  if (!view.ok()) return call->Fail(view.error());
  RespondReady(call, InferenceReady(*view));
}

void ShowModel(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<CatalogView> view = ViewOfPath(gateway, *call);
  if (!view.ok()) return call->Fail(view.error());
  call->RespondJson(InferenceModelJson(*view));
}

Result<Json> ReadBody(const Gateway& gateway, Call& call) {
  if (call.request().Field("Inference-Header-Content-Length")) {
    return Error(Code::kUnsupported, "Inference-Header-Content-Length: tensors in binary form are not read; send \"data\" as JSON");
  }
  BANTAM_ASSIGN(Json body, Gateway::ReadObject(call));
  BANTAM_ASSIGN(const std::string name, NameOfPath(call));
  BANTAM_TRY(gateway.HoldModel(call, Json(name)));
  return body;
}

void Infer(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<Json> body = ReadBody(gateway, *call);
  if (!body.ok()) return call->Fail(body.error());
  AskInference(gateway, call, *body, WriteJson);
}

// {"text_input", "parameters", "id", "stream"}; what else stands beside them is a parameter too.
template <bool kStream>
void Generate(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<Json> body = ReadBody(gateway, *call);
  if (!body.ok()) return call->Fail(body.error());
  const auto ask = [&]() -> Status {
    InferenceRequest request;
    const Json id = TakeMember(&*body, "id");
    if (!id.is_null()) {
      BANTAM_ASSIGN(request.id, ReadText("id", id));
    }
    BANTAM_ASSIGN(std::string text, ReadText(kTextInput, TakeMember(&*body, kTextInput)));
    request.texts.push_back(std::move(text));
    const Json stream = TakeMember(&*body, "stream");
    if (!stream.is_null() && stream != kStream) {
      return WrongMember("stream", stream, kStream ? "true: this route streams" : "false; or ask generate_stream");
    }
    const Json parameters = TakeMember(&*body, "parameters");
    request.parameters = std::move(*body);
    BANTAM_TRY(AddParameters(parameters, "parameters", &request.parameters));
    BANTAM_TRY(RenameParameters(&request.parameters));
    return AskForText(gateway, call, std::move(request), {.tensors = false, .stream = kStream}, WriteJson);
  };
  const Status asked = ask();
  if (!asked.ok()) call->Fail(asked.error());
}

}  // namespace

Status CheckInferenceVersion(const std::string& version) {
  if (version.empty() || version == kVersion) return Ok();
  return Error(Code::kNotFound, fmt::format("there is no version {} of a model; each has one, {}", version.substr(0, 100), kVersion));
}

Json InferenceServerJson(const std::string& version) {
  return {{"name", "bantam"}, {"version", version}, {"extensions", Json::array({"generate"})}};
}

Json InferenceModelJson(const CatalogView& view) {
  const auto tensor = [](const char* name, const char* datatype, Json shape) {
    return Json{{"name", name}, {"datatype", datatype}, {"shape", std::move(shape)}};
  };
  Json json = {{"name", view.name}, {"versions", Json::array({kVersion})}, {"platform", "bantam"}};
  Json inputs = Json::array();
  Json outputs = Json::array();
  if (view.model != nullptr && view.model->Answers()) {
    inputs = Json::array({tensor(kTextInput, "BYTES", Json::array({1})), tensor("sampling_parameters", "BYTES", Json::array({1}))});
    outputs = Json::array({tensor(kTextOutput, "BYTES", Json::array({-1})), tensor("finish_reason", "BYTES", Json::array({-1}))});
  } else if (view.model != nullptr) {
    const TextRequestContext& context = view.model->texts->context();
    inputs.push_back(tensor(kTextInput, "BYTES", Json::array({-1})));
    if (context.work == TextWork::kVectors) {
      outputs.push_back(tensor("embedding", "FP32", Json::array({-1, context.width})));
    } else {
      outputs = Json::array({tensor("label", "BYTES", Json::array({-1})), tensor("score", "FP32", Json::array({-1}))});
    }
  }
  json["inputs"] = std::move(inputs);
  json["outputs"] = std::move(outputs);
  return json;
}

Result<CatalogView> InferenceViewOf(const Gateway& gateway, const Call& call, const std::string& name) {
  BANTAM_ASSIGN(const std::string known, gateway.NameOf(call, Json(name)));
  for (CatalogView& view : gateway.ModelsOf(call)) {
    if (view.name == known) return std::move(view);
  }
  return Error(Code::kNotFound, fmt::format("there is no model {}", name));
}

bool InferenceReady(const CatalogView& view) {
  const bool failed = view.model != nullptr && view.model->engine != nullptr && view.model->engine->failed();
  // One that is loaded for the first request takes that.
  return !failed && (view.model != nullptr || (view.on_demand && view.state != ModelState::kStopped));
}

void AskInference(Gateway& gateway, const std::shared_ptr<Call>& call, const Json& body, WriteInference write) {
  Result<InferenceRequest> request = ReadInferenceRequest(body);
  if (!request.ok()) return call->Fail(request.error());
  const Status wanted = CheckOutputs(*request, *call->model);
  if (!wanted.ok()) return call->Fail(wanted.error());
  if (!call->model->Answers()) return AskForTexts(gateway, call, std::move(request).value(), std::move(write));
  const Status asked = AskForText(gateway, call, std::move(request).value(), {}, std::move(write));
  if (!asked.ok()) call->Fail(asked.error());
}

const Dialect kInferenceDialect = {"kserve", ErrorBody, ErrorEvent};

std::span<const Route> InferenceRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"GET", "/v2", Role::kAnybody, kQuick, kInferenceDialect, ShowServer},
      {"GET", "/v2/health/live", Role::kAnybody, kQuick, kInferenceDialect, Live},
      {"GET", "/v2/health/ready", Role::kAnybody, kQuick, kInferenceDialect, Ready},
      {"GET", "/v2/models/*/ready", Role::kUse, kQuick, kInferenceDialect, ModelReady},
      {"GET", "/v2/models/*", Role::kUse, kQuick, kInferenceDialect, ShowModel},
      {"POST", "/v2/models/*/infer", Role::kUse, kReads, kInferenceDialect, Infer},
      {"POST", "/v2/models/*/generate", Role::kUse, kReads, kInferenceDialect, Generate<false>},
      {"POST", "/v2/models/*/generate_stream", Role::kUse, kReads, kInferenceDialect, Generate<true>},
  };
  return kRoutes;
}

}  // namespace bantam
