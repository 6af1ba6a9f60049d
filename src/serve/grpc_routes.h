// The services of proto/ as routes of the gateway: from gRPC's messages to the members that the readers know, and back. The messages are
// known in grpc_*.cc only; here they are bytes.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/server_message.h"
#include "serve/call.h"

namespace google::protobuf {
class Message;
}

namespace bantam {

// The message that the bytes are. What would take much more memory than its bytes is refused before that. Errors: InvalidArgument, naming
// the list that is too long.
Status ReadGrpcMessage(std::string_view bytes, google::protobuf::Message* message);

// Those of bantam.v1.Bantam, inference.GRPCInferenceService and grpc.health.v1.Health, by path: "/bantam.v1.Bantam/Generate".
std::span<const Route> GrpcRoutes();
std::span<const Route> GrpcInferenceRoutes();
std::span<const Route> GrpcHealthRoutes();
const Route* FindGrpcRoute(std::string_view path);

extern const Dialect kGrpcDialect;

// How streams carry messages through an exchange: a byte (0: a message; 0x80: an error that ends the stream), the length in four bytes, the
// highest first, and the bytes. An answer that is whole is its message alone.
std::string GrpcFrame(std::string_view message);
struct GrpcPiece {
  bool error = false;
  std::string_view bytes = {};
};
// Takes the first frame off, of bytes that are whole frames.
GrpcPiece TakeGrpcFrame(std::string_view* bytes);

// An error as kGrpcDialect writes it: google.rpc.Status.
struct GrpcFailure {
  int code = 0;
  std::string message = {};
  std::string details = {};  // the bytes themselves, for grpc-status-details-bin
  int64_t retry_ms = 0;      // 0: not said
};
GrpcFailure ReadGrpcFailure(std::string_view body);

// How a service is, as HealthCheckResponse.ServingStatus has it, and the message that says so.
int GrpcHealthOf(const Gateway& gateway, std::string_view service);
std::string GrpcHealthMessage(int status);

// One answer of the reflection service to one request. Nothing where it cannot be read.
inline constexpr std::string_view kReflectionPaths[] = {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                                        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};
std::optional<std::string> AnswerReflection(std::string_view request);

}  // namespace bantam
