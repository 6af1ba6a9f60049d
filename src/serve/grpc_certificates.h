// The certificates of gRPC's connections. The library looks at files again by itself, and would take whatever it finds there, halves and
// mistakes included: it is shown copies, which change only when good ones are given.
#pragma once

#include <string>

#include "base/result.h"
#include "net/http_server.h"

namespace bantam {

class GrpcCertificates {
 public:
  GrpcCertificates() = default;
  ~GrpcCertificates();
  GrpcCertificates(const GrpcCertificates&) = delete;
  GrpcCertificates& operator=(const GrpcCertificates&) = delete;

  // Takes copies of the files; whether clients need certificates is as it was the first time. Errors, which change nothing: as
  // CheckTlsFiles says them; InvalidArgument (clients), Unavailable (the files changed meanwhile), Exhausted (no descriptors).
  Status Use(const TlsOptions& options);

  // Files in memory: the key with its certificates; those of who vouches for clients, empty where they need none.
  std::string identity_path() const;
  std::string roots_path() const;

 private:
  int identity_ = -1;
  int roots_ = -1;
};

}  // namespace bantam
