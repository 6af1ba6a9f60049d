// What verbs share that make a smaller model of one (quantize, prune): the text that they measure on, the places they write to, and the
// report.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/disk.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "base/watched_files.h"
#include "cli/comparison.h"
#include "compress/calibrate.h"
#include "compress/importance.h"
#include "compress/quantize.h"
#include "compress/work_memory.h"
#include "security/sha256.h"

namespace bantam {

struct CompressArguments {
  std::string source;
  std::string out;
  std::string calibrate;
  std::string imatrix;
  std::string save_imatrix;
  std::string text;
  std::string report;
  std::string picture;
  size_t calibrate_tokens = 16384;
  size_t windows = 16;
  bool importance = true;     // is measured on `calibrate`
  bool draws_errors = false;  // there is something for `picture` without a comparison
  bool compare = true;
  bool force = false;
  bool json = false;
  RunOptions run;
};
// IN and OUT, and the options that all such verbs have. `calibrate` says what a calibration text is for.
void AddCompressOptions(CLI::App& verb, CompressArguments* arguments, const std::string& calibrate);

// What is in memory besides the file that is read: the model that is calibrated on and compared with, if either is wanted.
struct CompressReader {
  std::optional<WindowModel> model;
  std::shared_ptr<MemoryBudget> budget;  // the model's, or of the process where there is none
  std::unique_ptr<Tokenizer> tokenizer;
  CalibrationWindows windows;
  std::optional<Calibrator> calibration;
  std::optional<Importance> importance;
  WindowText text;               // that what was made is compared on
  std::vector<BarChart> charts;  // of the picture, in front of what the comparison adds
  Progress progress;
  std::vector<MemoryBudget::Reservation> work;  // for what is done with matrices
};

std::string FileName(const std::string& path);

// The source, and where its result goes.
struct CompressPlaces {
  std::string path;      // of the source
  ModelFile file;        // the source
  bool package = false;  // OUT is one
  std::string made;      // the GGUF file, beside OUT where that is a package
};
// Refuses results that would take the place of what is read, of anything but a file, or of each other. `inputs`: further files that are
// read.
Result<CompressPlaces> OpenCompressPlaces(FileSystem& files, WatchedFiles& watched, const CompressArguments& arguments,
                                          const std::vector<std::string>& inputs);

// Of a result of so many bytes, but for what an earlier call has left of it. `compared`: two models are made, and one of them stays.
Status CheckRoomFor(Disk& disk, const CompressPlaces& places, uint64_t bytes, bool compared = false);

// Loads the model where a text is to be read, and reads texts and importance. The reader does not move from here on.
Status LoadSource(FileSystem& files, const CompressPlaces& places, const CompressArguments& arguments, CompressReader* reader);
// Reserves the memory of the work on one matrix; Exhausted where that is not free beside the model.
Status ReserveWork(const WorkMemory& work, CompressReader* reader);
// Measures importance where it is wanted and not known.
Status MeasureSource(FileSystem& files, const CompressArguments& arguments, CompressReader* reader);
// Reserves memory for Gram matrices of matrices to come, what is left or `most`, and returns how much.
uint64_t ReserveGrams(CompressReader* reader, uint64_t most);

// Everything that the bytes of the result depend on, but what the verb itself was told.
Result<Json> DescribeInputs(FileSystem& files, const ModelFile& file, const CompressArguments& arguments, const Progress& progress);

// Compares what was made with its source, makes a package of it and writes the report, as the arguments say. Adds to `json`; returns what
// people are told.
Result<std::string> FinishCompression(FileSystem& files, const CompressPlaces& places, const CompressArguments& arguments,
                                      CompressReader* reader, ThreadPool& pool, Json* json);

// A model that is made of the source's tensors when they are read.
struct MadeModel {
  ModelFile& file;
  const std::vector<DType>& formats;  // of each tensor: what the source has it in
  const Digest& selection;            // of what was chosen: pieces of two selections do not go together
  const Json& described;              // all else that it depends on
};
struct MadePlaces {
  FileSystem& files;
  Disk& disk;
  const CompressPlaces& places;
  const WatchedFiles& watched;
};
// Writes it, tensors in their formats; what is changed and in formats that are only read becomes Q8_0.
Result<QuantizeReport> WriteMade(const MadePlaces& to, const MadeModel& made, ThreadPool& pool, const Progress& progress);

// Of all tensors of a file.
uint64_t TensorBytes(const ModelFile& file);

// What counts in the end: whether the model is faster here, by what the report says. `never_pays`: why it is not, where that is known.
std::string SpeedText(const Json& json, std::string_view never_pays);

// Runs a verb that makes a model, prints what it tells and returns the exit code.
int RunCompression(const std::function<Result<std::string>()>& verb);

}  // namespace bantam
