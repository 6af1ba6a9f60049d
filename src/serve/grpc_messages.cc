// Errors and frames of gRPC's routes.
#include <google/protobuf/any.pb.h>
#include <google/protobuf/duration.pb.h>
#include <google/rpc/status.pb.h>

#include "serve/grpc_routes.h"
#include "text/utf8.h"

namespace bantam {
namespace {

constexpr unsigned char kMessage = 0;
constexpr unsigned char kError = 0x80;
constexpr size_t kHeadBytes = 5;
constexpr int64_t kMsPerSecond = 1000;

std::string Frame(unsigned char kind, std::string_view bytes) {
  std::string frame(1, static_cast<char>(kind));
  for (int shift = 24; shift >= 0; shift -= 8) frame += static_cast<char>(bytes.size() >> shift & 0xff);
  return frame.append(bytes);
}

// google.rpc.Status: what failed for programs, which field is wrong, how long to wait.
std::string ErrorBody(const ApiError& error) {
  // What a client sent may be quoted in it; texts of these messages are UTF-8, or cannot be read.
  const std::string message = ReplaceInvalidUtf8(error.message);
  const std::string field = ReplaceInvalidUtf8(error.param);
  google::rpc::Status status;
  status.set_code(GrpcCodeOf(error.status));
  status.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(error.code);
  info.set_domain("bantam");
  if (!field.empty()) (*info.mutable_metadata())["field"] = field;
  status.add_details()->PackFrom(info);
  if (!field.empty()) {
    google::rpc::BadRequest request;
    request.add_field_violations()->set_field(field);
    request.mutable_field_violations(0)->set_description(message);
    status.add_details()->PackFrom(request);
  }
  if (error.retry_after_s) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(*error.retry_after_s);
    status.add_details()->PackFrom(retry);
  }
  return status.SerializeAsString();
}

std::string ErrorFrame(const ApiError& error) { return Frame(kError, ErrorBody(error)); }

}  // namespace

const Dialect kGrpcDialect = {"grpc", ErrorBody, ErrorFrame};

std::string GrpcFrame(std::string_view message) { return Frame(kMessage, message); }

GrpcPiece TakeGrpcFrame(std::string_view* bytes) {
  CHECK(bytes->size() >= kHeadBytes);
  size_t length = 0;
  for (size_t i = 1; i < kHeadBytes; ++i) length = length << 8 | static_cast<unsigned char>((*bytes)[i]);
  CHECK(bytes->size() - kHeadBytes >= length);
  const GrpcPiece piece = {static_cast<unsigned char>((*bytes)[0]) == kError, bytes->substr(kHeadBytes, length)};
  bytes->remove_prefix(kHeadBytes + length);
  return piece;
}

GrpcFailure ReadGrpcFailure(std::string_view body) {
  google::rpc::Status status;
  CHECK(status.ParseFromArray(body.data(), static_cast<int>(body.size())));
  GrpcFailure failure = {.code = status.code(), .message = status.message(), .details = std::string(body)};
  for (const auto& detail : status.details()) {
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&retry)) failure.retry_ms = retry.retry_delay().seconds() * kMsPerSecond;
  }
  return failure;
}

}  // namespace bantam
