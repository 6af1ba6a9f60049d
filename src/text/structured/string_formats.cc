#include "text/structured/string_formats.h"

#include <algorithm>
#include <array>

namespace bantam {
namespace {

// RFC 3339, section 5.6, with the days that each month has.
#define BANTAM_LEAP_YEAR "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[048]|[2468][048]|[13579][26])00)"
#define BANTAM_DATE                                                                                                                     \
  "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|" BANTAM_LEAP_YEAR \
  "-02-29)"
#define BANTAM_OFFSET "([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
// A leap second is the last one of a day in UTC; it is written with an offset of nothing here.
#define BANTAM_TIME                                                          \
  "(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,15})?" BANTAM_OFFSET \
  "|"                                                                        \
  "23:59:60(\\.[0-9]{1,15})?([Zz]|[+-]00:00))"
// Two hyphens in a row have a meaning (Punycode), so there are none.
#define BANTAM_LABEL "([A-Za-z0-9]{1,63}|[A-Za-z0-9]{1,15}(-[A-Za-z0-9]{1,15}){1,3})"
#define BANTAM_HOST BANTAM_LABEL "(\\." BANTAM_LABEL "){0,2}"
#define BANTAM_OCTET "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define BANTAM_IPV4 "(" BANTAM_OCTET "\\.){3}" BANTAM_OCTET
// As many groups as there may be on both sides of "::", and an address of four numbers instead of the last two.
#define BANTAM_G "[0-9A-Fa-f]{1,4}"
#define BANTAM_IPV6                                                                                                                   \
  "((" BANTAM_G ":){7}(" BANTAM_G "|:)|(" BANTAM_G ":){6}(:" BANTAM_G "|" BANTAM_IPV4                                                 \
  "|:)|"                                                                                                                              \
  "(" BANTAM_G ":){5}((:" BANTAM_G "){1,2}|:" BANTAM_IPV4 "|:)|(" BANTAM_G ":){4}((:" BANTAM_G "){1,3}|(:" BANTAM_G ")?:" BANTAM_IPV4 \
  "|:)|"                                                                                                                              \
  "(" BANTAM_G ":){3}((:" BANTAM_G "){1,4}|(:" BANTAM_G "){0,2}:" BANTAM_IPV4                                                         \
  "|:)|"                                                                                                                              \
  "(" BANTAM_G ":){2}((:" BANTAM_G "){1,5}|(:" BANTAM_G "){0,3}:" BANTAM_IPV4                                                         \
  "|:)|"                                                                                                                              \
  "(" BANTAM_G ":){1}((:" BANTAM_G "){1,6}|(:" BANTAM_G "){0,4}:" BANTAM_IPV4                                                         \
  "|:)|"                                                                                                                              \
  ":((:" BANTAM_G "){1,7}|(:" BANTAM_G "){0,5}:" BANTAM_IPV4 "|:))"
#define BANTAM_ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
// RFC 3986.
#define BANTAM_PCHAR "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define BANTAM_REG_NAME "([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
#define BANTAM_AUTHORITY "((" BANTAM_REG_NAME "|:)*@)?(" BANTAM_REG_NAME "+|\\[" BANTAM_IPV6 "\\])(:[0-9]{0,5})?"
#define BANTAM_TAIL "(\\?(" BANTAM_PCHAR "|[/?])*)?(#(" BANTAM_PCHAR "|[/?])*)?"
#define BANTAM_URI \
  "[A-Za-z][A-Za-z0-9+.-]*:(//" BANTAM_AUTHORITY "(/" BANTAM_PCHAR "*)*|/?" BANTAM_PCHAR "+(/" BANTAM_PCHAR "*)*)" BANTAM_TAIL
#define BANTAM_POINTER "(/([^~/]|~[01])*)*"

struct NamedFormat {
  std::string_view name;
  std::string_view pattern;
};
constexpr std::array kFormats = std::to_array<NamedFormat>({
    {"date", BANTAM_DATE},
    {"time", BANTAM_TIME},
    {"date-time", BANTAM_DATE "[Tt]" BANTAM_TIME},
    {"iso-time", BANTAM_TIME},
    {"iso-date-time", BANTAM_DATE "[Tt]" BANTAM_TIME},
    {"duration",
     "P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)"
     "(T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))?|"
     "T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))"},
    {"email", BANTAM_ATOM "(\\." BANTAM_ATOM ")*@(" BANTAM_LABEL "\\.)+" BANTAM_LABEL},
    {"idn-email", BANTAM_ATOM "(\\." BANTAM_ATOM ")*@(" BANTAM_LABEL "\\.)+" BANTAM_LABEL},
    {"hostname", BANTAM_HOST},
    {"idn-hostname", BANTAM_HOST},
    {"ipv4", BANTAM_IPV4},
    {"ipv6", BANTAM_IPV6},
    {"uuid", "[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"},
    {"uri", BANTAM_URI},
    {"url", "https?://" BANTAM_LABEL "(\\." BANTAM_LABEL ")*\\.[A-Za-z]{2,6}(:[0-9]{2,5})?((/" BANTAM_PCHAR "*)+" BANTAM_TAIL ")?"},
    {"iri", BANTAM_URI},
    {"uri-reference",
     BANTAM_URI "|(//" BANTAM_AUTHORITY "|([A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+)?(/" BANTAM_PCHAR "+)*/?" BANTAM_TAIL},
    {"iri-reference", BANTAM_URI},
    {"uri-template", "[A-Za-z0-9._~/:?&=#-]*(\\{[A-Za-z0-9_]+\\}[A-Za-z0-9._~/:?&=#-]*)*"},
    {"json-pointer", BANTAM_POINTER},
    {"json-pointer-uri-fragment", "#(/([A-Za-z0-9_.!$&'()*+,;:=@-]|~[01])*)*"},
    {"relative-json-pointer", "(0|[1-9][0-9]{0,8})(#|" BANTAM_POINTER ")"},
    {"regex", "[A-Za-z0-9 _-]*"},
    {"byte", "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"},
    {"password", ""},
    {"binary", ""},
});

}  // namespace

std::optional<StringFormat> FindStringFormat(std::string_view name) {
  const auto* found = std::find_if(kFormats.begin(), kFormats.end(), [&](const NamedFormat& format) { return format.name == name; });
  if (found == kFormats.end()) return std::nullopt;
  return StringFormat{found->pattern};
}

}  // namespace bantam
