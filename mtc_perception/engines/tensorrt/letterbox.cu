// The camera's bytes as the network's input, in one pass: scaling, padding, colour order.
//
// The same as `Letterbox.write` of core/letterbox.py, to one grey level: bilinear between the four
// nearest pixels, or the mean of the area that a pixel covers where the image shrinks below half
// size. Positions are fractions with the output's length as denominator, so they are exact.
//
// The body is C as well, so that it can be checked where there is no GPU:
// test/engines/test_device_letterbox.py.

#ifdef __CUDACC__
#define BODY static __device__ __forceinline__
#else
#include <math.h>
#include <stddef.h>
#define BODY static inline
#endif

// As in `device_letterbox.Geometry`, field by field.
typedef struct {
  int src_height, src_width;
  int pixel_bytes;
  int channel[3];  // byte of red, green and blue in a pixel
  int dst_height, dst_width;
  int top, left, height, width;  // what the image covers of the output
  int averages;  // mean of the covered area instead of bilinear interpolation
  int pad_value;
} Geometry;

BODY int clamped(int value, int last) { return value < 0 ? 0 : value > last ? last : value; }

// The two source pixels beside the centre of output pixel `i` of `length`; returns how far the
// centre is from the first to the second, in 0..1.
BODY float neighbours(int i, int length, int src_length, int* first, int* second) {
  long long numerator = (2LL * i + 1) * src_length - length;
  int below = numerator < 0 ? -1 : (int)(numerator / (2LL * length));
  *first = clamped(below, src_length - 1);
  *second = clamped(below + 1, src_length - 1);
  return (float)(numerator - 2LL * length * below) / (2.0f * length);
}

// How much of source pixel `k` output pixel `i` of `length` covers, as part of all that it covers.
BODY float share(int k, int i, int length, int src_length) {
  long long begin = (long long)i * src_length, end = begin + src_length;
  long long low = (long long)k * length, high = low + length;
  return (float)((high < end ? high : end) - (low > begin ? low : begin)) / (float)src_length;
}

BODY float mixed(float a, float b, float part) { return a + part * (b - a); }

// Output pixel (`row`, `column`), into the three bytes at `out`.
BODY void letterbox_pixel(const unsigned char* source, Geometry g, int row, int column,
                          unsigned char* out) {
  int y = row - g.top, x = column - g.left;
  if (y < 0 || y >= g.height || x < 0 || x >= g.width) {
    out[0] = out[1] = out[2] = (unsigned char)g.pad_value;
    return;
  }
  size_t row_bytes = (size_t)g.src_width * g.pixel_bytes;
  float sum[3] = {0.0f, 0.0f, 0.0f};
  if (g.averages) {
    int first_row = (int)((long long)y * g.src_height / g.height);
    int last_row = (int)(((long long)(y + 1) * g.src_height - 1) / g.height);
    int first = (int)((long long)x * g.src_width / g.width);
    int last = (int)(((long long)(x + 1) * g.src_width - 1) / g.width);
    for (int j = first_row; j <= last_row; ++j) {
      float row_share = share(j, y, g.height, g.src_height);
      const unsigned char* pixels = source + j * row_bytes;
      for (int k = first; k <= last; ++k) {
        float weight = row_share * share(k, x, g.width, g.src_width);
        for (int c = 0; c < 3; ++c)
          sum[c] += weight * pixels[(size_t)k * g.pixel_bytes + g.channel[c]];
      }
    }
  } else {
    int above, below, before, after;
    float down = neighbours(y, g.height, g.src_height, &above, &below);
    float right = neighbours(x, g.width, g.src_width, &before, &after);
    const unsigned char* upper = source + above * row_bytes;
    const unsigned char* lower = source + below * row_bytes;
    size_t a = (size_t)before * g.pixel_bytes, b = (size_t)after * g.pixel_bytes;
    for (int c = 0; c < 3; ++c)
      sum[c] = mixed(mixed(upper[a + g.channel[c]], upper[b + g.channel[c]], right),
                     mixed(lower[a + g.channel[c]], lower[b + g.channel[c]], right), down);
  }
  for (int c = 0; c < 3; ++c) out[c] = (unsigned char)(sum[c] + 0.5f);
}

#ifdef __CUDACC__
extern "C" __global__ void letterbox(const unsigned char* __restrict__ source, Geometry g,
                                     unsigned char* __restrict__ out) {
  int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < g.dst_height && column < g.dst_width)
    letterbox_pixel(source, g, row, column, out + 3 * ((size_t)row * g.dst_width + column));
}
#endif
