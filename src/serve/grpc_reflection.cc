// gRPC's reflection: which services there are, and the files that describe them.
#include <bantam.pb.h>
#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpc/health/v1/health.pb.h>
#include <grpc/reflection/v1/reflection.pb.h>
#include <kserve.pb.h>

#include <set>

#include "serve/grpc_routes.h"

namespace bantam {
namespace {

namespace pb = google::protobuf;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

constexpr int kNotFound = 5;
constexpr int kUnimplemented = 12;

// The services that answer here.
std::vector<const pb::FileDescriptor*> Files() {
  return {v1::GenerateRequest::descriptor()->file(), inference::ModelInferRequest::descriptor()->file(),
          grpc::health::v1::HealthCheckRequest::descriptor()->file(), ServerReflectionRequest::descriptor()->file()};
}

void ListServices(ServerReflectionResponse* response) {
  auto* list = response->mutable_list_services_response();
  for (const pb::FileDescriptor* file : Files()) {
    for (int i = 0; i < file->service_count(); ++i) list->add_service()->set_name(file->service(i)->full_name());
  }
}

void AddFiles(const pb::FileDescriptor* file, std::set<std::string>* added, ServerReflectionResponse* response) {
  if (!added->insert(file->name()).second) return;
  pb::FileDescriptorProto proto;
  file->CopyTo(&proto);
  response->mutable_file_descriptor_response()->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file->dependency_count(); ++i) AddFiles(file->dependency(i), added, response);
}

void TellFile(const pb::FileDescriptor* file, const std::string& wanted, ServerReflectionResponse* response) {
  if (file == nullptr) {
    response->mutable_error_response()->set_error_code(kNotFound);
    response->mutable_error_response()->set_error_message(fmt::format("{}: not known here", wanted.substr(0, 200)));
    return;
  }
  std::set<std::string> added;
  AddFiles(file, &added, response);
}

}  // namespace

std::optional<std::string> AnswerReflection(std::string_view bytes) {
  ServerReflectionRequest request;
  if (!ReadGrpcMessage(bytes, &request).ok()) return std::nullopt;
  const auto known = Files();  // makes them known to the pool
  const pb::DescriptorPool& pool = *pb::DescriptorPool::generated_pool();
  ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kListServices:
      ListServices(&response);
      break;
    case ServerReflectionRequest::kFileByFilename:
      TellFile(pool.FindFileByName(request.file_by_filename()), request.file_by_filename(), &response);
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      TellFile(pool.FindFileContainingSymbol(request.file_containing_symbol()), request.file_containing_symbol(), &response);
      break;
    case ServerReflectionRequest::kFileContainingExtension:
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      response.mutable_error_response()->set_error_code(kUnimplemented);
      response.mutable_error_response()->set_error_message("expected list_services, file_by_filename or file_containing_symbol");
      break;
  }
  return response.SerializeAsString();
}

}  // namespace bantam
