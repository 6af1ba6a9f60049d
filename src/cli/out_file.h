// Files that verbs make of a model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "base/threads.h"

namespace bantam {

// A file that is there stays, unless the user says otherwise, and one that the model is made of stays whatever he says. Devices take
// anything.
// A file that is made anew: InvalidArgument where something else is in its place (a folder, a device, a link), or where it is one of these.
Status CheckNewFile(const std::string& out, const std::vector<std::string>& inputs);
Status CheckOut(FileSystem& files, const std::string& model, const std::vector<std::string>& further, const std::string& out, bool force);

// Of so many threads; 0: the usable physical cores.
Result<std::unique_ptr<ThreadPool>> MakePool(FileSystem& files, int threads);

}  // namespace bantam
