#include "testing/certificate.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/check.h"

namespace bantam::testing {

Certificate MakeCertificate(const std::string& subject, long begin_s, long end_s) {
  Certificate made;
  made.key.reset(::EVP_EC_gen("P-256"));
  made.certificate.reset(::X509_new());
  X509* certificate = made.certificate.get();
  CHECK(made.key != nullptr && certificate != nullptr);
  constexpr long kVersion3 = 2;
  ::X509_set_version(certificate, kVersion3);
  ::ASN1_INTEGER_set(::X509_get_serialNumber(certificate), 1);
  ::X509_gmtime_adj(::X509_getm_notBefore(certificate), begin_s);
  ::X509_gmtime_adj(::X509_getm_notAfter(certificate), end_s);
  ::X509_set_pubkey(certificate, made.key.get());
  X509_NAME* name = ::X509_get_subject_name(certificate);
  const unsigned char common_name[] = "a test";
  ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, common_name, /*len=*/-1, /*loc=*/-1, /*set=*/0);
  ::X509_set_issuer_name(certificate, name);
  X509_EXTENSION* names = ::X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, subject.c_str());
  CHECK(names != nullptr);
  ::X509_add_ext(certificate, names, /*loc=*/-1);
  ::X509_EXTENSION_free(names);
  CHECK(::X509_sign(certificate, made.key.get(), ::EVP_sha256()) > 0);
  const std::unique_ptr<BIO, decltype(&::BIO_free)> memory(::BIO_new(::BIO_s_mem()), &::BIO_free);
  CHECK(::PEM_write_bio_X509(memory.get(), certificate) == 1);
  char* text = nullptr;
  const long size = ::BIO_get_mem_data(memory.get(), &text);
  made.pem.assign(text, static_cast<size_t>(size));
  return made;
}

}  // namespace bantam::testing
