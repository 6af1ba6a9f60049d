// From what a user names to a model in the model folder.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fleet/catalogue.h"
#include "fleet/download.h"
#include "fleet/hub.h"
#include "fleet/npm.h"
#include "fleet/plan.h"

namespace bantam {

struct PullRequest {
  std::string reference;  // hf:OWNER/REPO[@REVISION][:FILE], https://..., http://..., file:PATH, or a name of the catalogue
  std::string name;       // in the model folder; empty: the one that the source has
  std::string sha256;     // that the file has to have; empty: what the source says
};

struct PullSettings {
  std::string folder;  // where models live
  HubSettings hub;
  NpmSettings npm;
  HttpLimits limits;
  bool plain_allowed = false;                                  // http to any host
  std::function<Status(const std::string& path)> accept = {};  // DownloadTarget::accept, of models that are one file
};

struct PullTools {
  HttpTransport& http;
  DownloadTools download;
};

struct PulledFile {
  std::string path;  // below the model's folder, or its name
  uint64_t bytes = 0;
  Digest digest = {};
  bool verified = false;  // the source said which digest to expect
};

struct Pulled {
  std::string path;
  std::string name;
  bool folder = false;
  bool already = false;  // it was there, the same to the last bit as far as the source tells
  uint64_t bytes = 0;
  uint64_t resumed_bytes = 0;
  std::vector<PulledFile> files;
};

// Asks the source, and checks every name that it gives. Errors: InvalidArgument, NotFound, those of the source.
Result<PullPlan> MakePlan(const PullRequest& request, const Catalogue& catalogue, const PullSettings& settings, const PullTools& tools);

// Fetches what is not there yet. Until all of it is there and verified, nothing has the model's name: what has come is NAME.part (a file or
// a folder) and is taken up by the next call. Errors: those of Download; Unavailable while another process pulls the same; InvalidArgument
// when another model has the name.
Result<Pulled> Pull(const PullPlan& plan, const PullSettings& settings, const PullTools& tools);

// A document such as a catalogue: of a path, or of an URL.
Result<std::string> ReadDocument(const std::string& place, size_t bytes_max, const PullSettings& settings, const PullTools& tools);

}  // namespace bantam
