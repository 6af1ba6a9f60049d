#include "testing/checkpoint.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/bytes.h"
#include "base/check.h"
#include "tensor/half.h"

namespace bantam::testing {
namespace {

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
uint64_t SplitMix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

std::string StoredValues(const std::string& name, uint64_t elements, const std::string& dtype) {
  std::string bytes;
  const uint64_t seed = Fingerprint(std::as_bytes(std::span(name)));
  for (uint64_t i = 0; i < elements; ++i) {
    const float value = (static_cast<float>(SplitMix(seed + i) >> 56) - 128) / 1024;
    char stored[4];
    const uint16_t half = dtype == "F16" ? F32ToF16(value) : F32ToBF16(value);
    std::memcpy(stored, dtype == "F32" ? static_cast<const void*>(&value) : &half, dtype == "F32" ? 4 : 2);
    bytes.append(stored, dtype == "F32" ? 4 : 2);
  }
  return bytes;
}

}  // namespace

StoredTensors ValuesOf(const Json& description) {
  StoredTensors tensors;
  const auto dtype = description["dtype"].get<std::string>();
  for (const auto& [name, shape] : description["tensors"].items()) {
    uint64_t elements = 1;
    for (const auto& dimension : shape) elements *= dimension.get<uint64_t>();
    tensors[name] = {dtype, shape.get<std::vector<uint64_t>>(), StoredValues(name, elements, dtype)};
  }
  return tensors;
}

std::string SafetensorsFile(const StoredTensors& tensors) {
  Json header = Json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof(size));
  return file + text + data;
}

void WriteText(const std::string& path, std::string_view text) {
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  CHECK(stream.good());
}

void WriteCheckpoint(const std::string& folder, const Json& config, const StoredTensors& tensors) {
  std::filesystem::create_directories(folder);
  WriteText(folder + "/config.json", config.dump());
  WriteText(folder + "/model.safetensors", SafetensorsFile(tensors));
}

Json ReadDescription(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  return Json::parse(text);
}

}  // namespace bantam::testing
