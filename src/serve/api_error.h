// What a client is told of a request that fails: the same error in every dialect.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

struct ApiError {
  int status = 500;
  std::string code = {};  // "invalid_value", "model_not_found": for programs
  std::string message = {};
  std::string param = {};                     // the member that is wrong; empty: none, or not known
  std::optional<int64_t> retry_after_s = {};  // with 429 and 503
};

// What a request asks for is wrong: 400, and of members the name of it, which the message begins with. What never fits is 400 too, what
// does not now 429, what the engine could not do 500.
// Of an engine that failed, or of an answer that did: nothing that the client could mend.
ApiError EngineFailed(const Error& error);
ApiError ApiErrorOf(const Error& error);
// Of a model that is known, and is not to be had now.
ApiError ModelNotThere(const Error& error);
// Of a change of models that could not be made: what was there before goes on.
ApiError ModelChangeFailed(const Error& error);

// The code of gRPC that an HTTP status stands for.
int GrpcCodeOf(int status);

// The member that a message of ReadJsonRequest and its like begins with: "messages[2].content: ...", "\"tempratur\": ...". Empty without
// one.
std::string MemberOf(std::string_view message);

// Seconds to wait, from a prediction: at least 1, at most an hour.
int64_t RetryAfterSeconds(int64_t predicted_ns);

}  // namespace bantam
