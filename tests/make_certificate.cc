// make_certificate NAME SUBJECT: a certificate signed by itself, for "IP:127.0.0.1" or "DNS:example.test", as NAME.pem, and its key as
// NAME.key.
#include <openssl/bio.h>
#include <openssl/pem.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "testing/certificate.h"

int main(int count, char** arguments) {
  if (count != 3) {
    std::fputs("usage: make_certificate NAME SUBJECT\n", stderr);
    return 2;
  }
  const std::string name = arguments[1];
  const bantam::testing::Certificate made = bantam::testing::MakeCertificate(arguments[2]);
  std::ofstream certificate(name + ".pem");
  certificate << made.pem;
  const std::unique_ptr<BIO, decltype(&::BIO_free)> key(::BIO_new_file((name + ".key").c_str(), "w"), &::BIO_free);
  const bool written = key != nullptr && ::PEM_write_bio_PrivateKey(key.get(), made.key.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1;
  return written && certificate.flush().good() ? 0 : 1;
}
