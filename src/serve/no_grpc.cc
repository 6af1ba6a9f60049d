// In place of gRPC where it is not built.
#include "serve/grpc_server.h"

namespace bantam {

bool GrpcServer::Built() { return false; }

uint64_t GrpcServer::PlannedBytes(const HttpServerLimits&) { return 0; }

Result<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions&, Gateway&, const Clock&) {
  return Error(Code::kUnsupported, "grpc: this program was built without gRPC; build it with -DBANTAM_GRPC=ON, or leave the setting out");
}

}  // namespace bantam
