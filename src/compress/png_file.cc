// The one file that knows libpng.
#include <fmt/format.h>
#include <png.h>

#include "base/check.h"
#include "compress/picture.h"

namespace bantam {

Result<std::string> EncodePng(const Picture& picture) {
  CHECK(picture.width > 0 && picture.height > 0 && picture.pixels.size() == picture.width * picture.height * 3);
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  // Its own way of telling failures, without jumps.
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  const int written = png_image_write_to_memory(&image, bytes.data(), &size, /*convert_to_8_bit=*/0, picture.pixels.data(),
                                                /*row_stride=*/0, /*colormap=*/nullptr);
  if (written == 0) return Error(Code::kInternal, fmt::format("no picture could be made: {}", image.message));
  bytes.resize(size);
  return bytes;
}

}  // namespace bantam
