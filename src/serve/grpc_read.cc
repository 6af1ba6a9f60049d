// Messages of gRPC out of bytes that anybody may have sent.
#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/protobuf.h"
#include "engine/json_request.h"
#include "engine/text_request.h"
#include "serve/grpc_routes.h"

namespace bantam {
namespace {

namespace pb = google::protobuf;

// What is read of a field costs 40 to 900 bytes, as an object of the library and then as JSON, though two bytes of the wire say it. Of all
// fields at all depths there may be so many, elements of packed lists and unknown fields among them.
constexpr size_t kFieldsMax = 32 << 10;
constexpr int kDepthMax = 8;  // the messages here have at most four levels
// Of the lists, in one message, wherever they stand in it.
constexpr std::pair<std::string_view, size_t> kListsMax[] = {
    {"bantam.v1.GenerateRequest.messages", kMessagesMax},
    {"bantam.v1.GenerateRequest.stop", 1024},
    {"bantam.v1.Message.tool_calls", 4096},
    {"bantam.v1.EmbedRequest.input", kTextsMax},
    {"bantam.v1.ClassifyRequest.classify", kTextsMax},
    {"inference.ModelInferRequest.parameters", 256},
    {"inference.ModelInferRequest.inputs", 16},
    {"inference.ModelInferRequest.outputs", 16},
    {"inference.ModelInferRequest.raw_input_contents", 16},
    {"inference.ModelInferRequest.InferInputTensor.shape", 64},
    {"inference.ModelInferRequest.InferInputTensor.parameters", 64},
    {"inference.ModelInferRequest.InferRequestedOutputTensor.parameters", 64},
    {"inference.InferTensorContents.bytes_contents", 2 * kTextsMax},
};

// Goes through the wire before the library makes objects of it.
class Scan {
 public:
  // Corrupt: it cannot be read; InvalidArgument: a list of too much.
  Status Read(std::string_view bytes, const pb::Descriptor* type, int depth) {
    if (depth > kDepthMax) return Error(Code::kCorrupt, "too deep");
    ProtoReader reader(bytes, "message");
    ProtoField field;
    for (;;) {
      BANTAM_ASSIGN(const bool more, reader.Next(&field));
      if (!more) return Ok();
      const pb::FieldDescriptor* known = field.number > INT32_MAX ? nullptr : type->FindFieldByNumber(static_cast<int>(field.number));
      BANTAM_TRY(Count(known, known == nullptr ? 1 : ElementsOf(*known, field)));
      const bool nested = known != nullptr && known->type() == pb::FieldDescriptor::TYPE_MESSAGE && field.kind == ProtoField::Kind::kBytes;
      if (nested) BANTAM_TRY(Read(field.bytes, known->message_type(), depth + 1));
    }
  }

 private:
  // Lists of numbers may come packed: all of them in one field.
  static size_t ElementsOf(const pb::FieldDescriptor& known, const ProtoField& field) {
    if (!known.is_packable() || field.kind != ProtoField::Kind::kBytes) return 1;
    switch (known.cpp_type()) {
      case pb::FieldDescriptor::CPPTYPE_DOUBLE:
        return field.bytes.size() / 8 + 1;
      case pb::FieldDescriptor::CPPTYPE_FLOAT:
        return field.bytes.size() / 4 + 1;
      case pb::FieldDescriptor::CPPTYPE_INT32:
      case pb::FieldDescriptor::CPPTYPE_INT64:
      case pb::FieldDescriptor::CPPTYPE_UINT32:
      case pb::FieldDescriptor::CPPTYPE_UINT64:
      case pb::FieldDescriptor::CPPTYPE_BOOL:
      case pb::FieldDescriptor::CPPTYPE_ENUM:
      case pb::FieldDescriptor::CPPTYPE_STRING:
      case pb::FieldDescriptor::CPPTYPE_MESSAGE:
        break;
    }
    // The last byte of each has its highest bit clear.
    return static_cast<size_t>(std::count_if(field.bytes.begin(), field.bytes.end(), [](char c) { return (c & 0x80) == 0; })) + 1;
  }

  Status Count(const pb::FieldDescriptor* known, size_t elements) {
    fields_ += elements;
    if (fields_ > kFieldsMax) {
      return Error(Code::kInvalidArgument, fmt::format("the message: expected at most {} fields and elements of lists", kFieldsMax));
    }
    if (known == nullptr || !known->is_repeated()) return Ok();
    size_t& count = lists_[known];
    count += elements;
    const auto most =
        std::find_if(std::begin(kListsMax), std::end(kListsMax), [&](const auto& list) { return list.first == known->full_name(); });
    if (most == std::end(kListsMax) || count <= most->second) return Ok();
    return Error(Code::kInvalidArgument, fmt::format("{}: expected at most {} of them", known->name(), most->second));
  }

  size_t fields_ = 0;
  std::map<const pb::FieldDescriptor*, size_t> lists_;
};

}  // namespace

Status ReadGrpcMessage(std::string_view bytes, pb::Message* message) {
  const pb::Descriptor* type = message->GetDescriptor();
  const Status scanned = Scan().Read(bytes, type, /*depth=*/0);
  if (!scanned.ok() && scanned.error().code() == Code::kInvalidArgument) return scanned;
  if (scanned.ok() && message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return Ok();
  return Error(Code::kInvalidArgument, fmt::format("the message is no {} (texts are UTF-8)", type->full_name()));
}

}  // namespace bantam
