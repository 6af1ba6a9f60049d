// Streams of the library's usual services that no model answers: descriptions of the services (reflection), and health that is watched.
// For grpc_*.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "serve/grpc_call.h"

namespace bantam {

enum class GrpcStreamKind : uint8_t { kReflection, kHealthWatch };
// Which of them has this path, if one has.
std::optional<GrpcStreamKind> FindGrpcStream(std::string_view path);

// Deletes itself when the library is done with it. Whoever starts an operation is the only one who may: the lock decides who.
class GrpcStream final : public grpc::ServerGenericBidiReactor, public std::enable_shared_from_this<GrpcStream> {
 public:
  static grpc::ServerGenericBidiReactor* Start(std::shared_ptr<GrpcShared> shared, GrpcStreamKind kind,
                                               grpc::GenericCallbackServerContext& context);
  // Ends what is too slow; tells who watches what has changed.
  void Look(int64_t now_ns);
  void End(const grpc::Status& status);

  // By the library's threads.
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GrpcStream(std::shared_ptr<GrpcShared> shared, GrpcStreamKind kind, grpc::GenericCallbackServerContext& context)
      : shared_(std::move(shared)), kind_(kind), address_(GrpcAddressOf(context.peer())), context_(&context) {}
  void Begin();
  // The answer to a message; nothing: none can be given.
  std::optional<std::string> Answer(std::string_view message);
  void Read();
  void Write(const std::string& message);

  const std::shared_ptr<GrpcShared> shared_;
  const GrpcStreamKind kind_;
  const std::string address_;
  bool entered_ = false;
  bool counted_ = false;  // as one of the reflection service
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  std::mutex mutex_;
  grpc::GenericCallbackServerContext* context_;  // null: the library is done
  int64_t phase_begin_ns_ = 0;
  bool reading_ = false;
  bool writing_ = false;
  bool ended_ = false;
  grpc::Status status_;
  std::optional<std::string> watched_ = {};  // the service
  int told_ = -1;                            // its status, as it was written last
};

}  // namespace bantam
