// grpc.health.v1.Health: Check as a route; Watch is a stream (grpc_stream.h).
#include <fmt/format.h>
#include <grpc/health/v1/health.pb.h>

#include <algorithm>

#include "serve/gateway.h"
#include "serve/grpc_routes.h"

namespace bantam {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// As health is asked of; the first is all of them.
constexpr std::string_view kServices[] = {"", "bantam.v1.Bantam", "inference.GRPCInferenceService"};

void Check(Gateway& gateway, const std::shared_ptr<Call>& call) {
  HealthCheckRequest request;
  const Status status = ReadGrpcMessage(call->request().body, &request);
  if (!status.ok()) return call->Fail(status.error());
  const int health = GrpcHealthOf(gateway, request.service());
  if (health == HealthCheckResponse::SERVICE_UNKNOWN) {
    return call->Fail(
        {.status = 404, .code = "not_found", .message = fmt::format("there is no service {} here", request.service().substr(0, 200))});
  }
  call->Respond({.body = GrpcHealthMessage(health)});
}

}  // namespace

int GrpcHealthOf(const Gateway& gateway, std::string_view service) {
  if (std::find(std::begin(kServices), std::end(kServices), service) == std::end(kServices)) return HealthCheckResponse::SERVICE_UNKNOWN;
  return gateway.NotReady() ? HealthCheckResponse::NOT_SERVING : HealthCheckResponse::SERVING;
}

std::string GrpcHealthMessage(int status) {
  HealthCheckResponse response;
  response.set_status(static_cast<HealthCheckResponse::ServingStatus>(status));
  return response.SerializeAsString();
}

std::span<const Route> GrpcHealthRoutes() {
  static const Route kRoutes[] = {{"GRPC", "/grpc.health.v1.Health/Check", Role::kAnybody, RouteWork::kQuick, kGrpcDialect, Check}};
  return kRoutes;
}

}  // namespace bantam
