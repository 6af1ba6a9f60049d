// Certificates made for a test: signed by themselves.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace bantam::testing {

struct Certificate {
  std::unique_ptr<EVP_PKEY, decltype(&::EVP_PKEY_free)> key = {nullptr, &::EVP_PKEY_free};
  std::unique_ptr<X509, decltype(&::X509_free)> certificate = {nullptr, &::X509_free};
  std::string pem;  // of the certificate
};

// For `subject`, in OpenSSL's form: "IP:127.0.0.1" or "DNS:example.test". Valid from `begin_s` to `end_s`, seconds from now.
Certificate MakeCertificate(const std::string& subject, long begin_s = -3600, long end_s = 3600);

}  // namespace bantam::testing
