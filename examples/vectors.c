/* How alike two texts are, by the vectors that a model makes of them.
 *
 *     cc vectors.c $(pkg-config --cflags --libs bantam) -o vectors
 *     ./vectors all-MiniLM-L6-v2 "a pump that leaks" "a broken seal"
 */
#include <bantam/bantam.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kTexts = 2 };

int main(int argc, char** argv) {
  bantam_error error = {.size = sizeof error, .message = "no memory for the vectors"};
  if (argc != 2 + kTexts) {
    fprintf(stderr, "usage: %s MODEL TEXT TEXT\n", argv[0]);
    return 2;
  }
  const bantam_encoder_options options = {.size = sizeof options, .model = argv[1], .memory_bytes = 1u << 30};
  bantam_encoder* encoder = NULL;
  if (bantam_encoder_open(&options, &encoder, &error) != BANTAM_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 3;
  }
  bantam_text texts[kTexts];
  for (int i = 0; i < kTexts; ++i) {
    texts[i].text = argv[2 + i];
    texts[i].text_bytes = strlen(argv[2 + i]);
  }
  const size_t width = bantam_encoder_width(encoder);
  float* vectors = malloc(kTexts * width * sizeof *vectors);
  const int made = vectors != NULL && bantam_embed(encoder, texts, kTexts, NULL, vectors, &error) == BANTAM_OK;
  if (made) {
    double product = 0; /* of vectors of unit length: the cosine of their angle */
    for (size_t i = 0; i < width; ++i) product += (double)vectors[i] * (double)vectors[width + i];
    printf("%.4f\n", product);
  } else {
    fprintf(stderr, "%s\n", error.message);
  }
  free(vectors);
  bantam_encoder_close(encoder);
  return made ? 0 : 3;
}
