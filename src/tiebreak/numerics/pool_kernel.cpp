// Exact max pooling on the CPU: values with a bit mask of the tied entries, and its transpose.
//
// Formats are compared as ordered keys: floats and doubles as they are, 16-bit formats as signed integers
// (0 and -0 both 0). Inner loops run along a row of windows without branches so that the compiler turns them
// into vector code; rows that hold a NaN (or, in 16 bits and with a general geometry, a -0) take a scalar
// loop, which is the definition that the vector loops must reproduce.
//
// A mask is planes of bytes: entry j of a window is bit j % 8 of plane j / 8. Windows that share a pixel are
// added in ascending order, each sum rounded to the storage format. Compile without contraction.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

using i64 = std::int64_t;
using u64 = std::uint64_t;
using u32 = std::uint32_t;
using i16 = std::int16_t;
using u16 = std::uint16_t;
using u8 = std::uint8_t;

constexpr i64 BLOCK = 128;  // windows whose temporaries stay in the first-level cache
constexpr i64 LANES = 32;   // temporaries are as long as a multiple of this, so that no loop has a remainder

constexpr i64 padded(i64 n) { return (n + LANES - 1) / LANES * LANES; }

// body(i) for i below n, rounded up to whole vectors.
template <class Body>
inline __attribute__((always_inline)) void for_lanes(i64 n, Body body) {
  for (i64 from = 0; from < n; from += LANES)
#pragma GCC unroll 1
    for (i64 i = from; i < from + LANES; ++i) body(i);
}

// Fresh memory of this size comes page by page, each zeroed by the system when it is first touched: most of the
// time of a large backward pass. Large pages make that cheap; the advice is no more than a hint.
inline void expect_large(void* start, i64 size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t page = 1 << 21;
  const auto from = (reinterpret_cast<std::uintptr_t>(start) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(start) + std::uintptr_t(size)) / page * page;
  if (end > from) madvise(reinterpret_cast<void*>(from), end - from, MADV_HUGEPAGE);
#else
  (void)start, (void)size;
#endif
}

// ---- formats -------------------------------------------------------------------------------------------

template <class T>
struct Binary {  // float and double: the key is the number itself
  using Storage = T;
  using Key = T;
  using Wide = T;
  using Bits = std::conditional_t<sizeof(T) == 4, u32, u64>;      // of the storage
  using WideBits = Bits;
  static Key key(T v) { return v; }
  static T value(Key k) { return k; }
  static bool is_nan(T v) { return v != v; }
  static bool is_negative_zero(T) { return false; }
  static Key lowest() { return -std::numeric_limits<T>::infinity(); }
  static Key absent() { return std::numeric_limits<T>::quiet_NaN(); }
  static Bits plus_zero_bits(Bits b) { return b == Bits(1) << (8 * sizeof(T) - 1) ? Bits(0) : b; }  // 0 + v
  static void widen(const T* from, Wide* to, i64 n) { std::copy(from, from + n, to); }
  static void narrow(const Wide* from, T* to, i64 n) { std::copy(from, from + n, to); }
  static void add(Wide* to, const Wide* part, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] += part[i];
  }
};

template <u16 INFINITY_BITS>
struct Short {  // binary16 and bfloat16: the key is sign and magnitude as a two's complement integer
  using Storage = u16;
  using Key = i16;
  using Wide = float;
  using Bits = u16;
  using WideBits = u32;
  static Key key(u16 v) {
    const i16 magnitude = i16(v & 0x7fff);
    return i16(v) < 0 ? i16(-magnitude) : magnitude;
  }
  static u16 value(Key k) { return k < 0 ? u16(0x8000 | u16(-k)) : u16(k); }
  static bool is_nan(u16 v) { return (v & 0x7fff) > INFINITY_BITS; }
  static bool is_negative_zero(u16 v) { return v == 0x8000; }
  static Key lowest() { return i16(-i16(INFINITY_BITS)); }
  static Key absent() { return i16(-32767 - 1); }
  static u16 plus_zero_bits(u16 b) { return b == 0x8000 ? u16(0) : b; }
};

inline u32 bits_of(float v) {
  u32 b;
  std::memcpy(&b, &v, 4);
  return b;
}
inline float float_of(u32 b) {
  float v;
  std::memcpy(&v, &b, 4);
  return v;
}

struct BFloat16 : Short<0x7f80> {
  static float wide(u16 v) { return float_of(u32(v) << 16); }
  static u16 rounded(float v) {
    const u32 b = bits_of(v);
    const u32 even = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    return (b & 0x7fffffff) > 0x7f800000 ? u16((b >> 16) | 0x40) : u16(even);
  }
  static void widen(const u16* from, float* to, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] = wide(from[i]);
  }
  static void narrow(const float* from, u16* to, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] = rounded(from[i]);
  }
  static void add(float* to, const float* part, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] = wide(rounded(to[i] + part[i]));
  }
};

struct Float16 : Short<0x7c00> {
  static float wide(u16 v) {
    const u32 sign = u32(v & 0x8000) << 16;
    u32 exponent = (v >> 10) & 0x1f, fraction = v & 0x3ff;
    if (exponent == 0x1f) return float_of(sign | 0x7f800000 | (fraction << 13));
    if (exponent == 0) {
      const float magnitude = float(fraction) * 0x1p-24f;
      return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
  }
  static u16 rounded(float v) {
    const u32 b = bits_of(v), sign = (b >> 16) & 0x8000, magnitude = b & 0x7fffffff;
    if (magnitude > 0x7f800000) return u16(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x477ff000) return u16(sign | 0x7c00);
    if (magnitude < 0x38800000) {  // below the normal range: steps of 2**-24, half to even as nearbyint does
      return u16(sign | u32(std::nearbyint(double(float_of(magnitude)) * 0x1p24)));
    }
    const u32 shifted = magnitude - 0x38000000;
    return u16(sign | ((shifted + 0xfff + ((shifted >> 13) & 1)) >> 13));
  }
  static void widen(const u16* from, float* to, i64 n) {
    i64 i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
    for (; i < n; ++i) to[i] = wide(from[i]);
  }
  static void narrow(const float* from, u16* to, i64 n) {
    i64 i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256((__m256i*)(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128((__m128i*)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; ++i) to[i] = rounded(from[i]);
  }
  static void add(float* to, const float* part, i64 n) {
    i64 i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
      const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(to + i), _mm512_loadu_ps(part + i));
      _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm512_cvtps_ph(sum, 0)));
    }
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      const __m256 sum = _mm256_add_ps(_mm256_loadu_ps(to + i), _mm256_loadu_ps(part + i));
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm256_cvtps_ph(sum, 0)));
    }
#endif
    for (; i < n; ++i) to[i] = wide(rounded(to[i] + part[i]));
  }
};

// ---- geometry ------------------------------------------------------------------------------------------

struct Geometry {
  i64 images, channels;  // channels that lie together in memory: 1 where each is an image of its own
  i64 height, width, rows, columns;  // of pixels, and of windows
  i64 kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;

  bool is_2x2() const {
    return channels == 1 && kernel_y == 2 && kernel_x == 2 && stride_y == 2 && stride_x == 2 && !padding_y && !padding_x &&
           dilation_y == 1 && dilation_x == 1 && 2 * rows <= height && 2 * columns <= width;
  }
  i64 entries() const { return kernel_y * kernel_x; }
  i64 planes() const { return (entries() + 7) / 8; }
  i64 windows() const { return images * channels * rows * columns; }
  i64 span_y() const { return (kernel_y - 1) * dilation_y + 1; }
  i64 phase_length() const {  // of one phase of a row: pixels x with (x + padding) % stride alike
    const i64 reach = (columns - 1) * stride_x + (kernel_x - 1) * dilation_x + 1;
    return padded((std::max(reach, width + padding_x) + stride_x - 1) / stride_x) + LANES;
  }
};

// ---- forward -------------------------------------------------------------------------------------------

// One window by the definition: first maximum wins, last NaN wins. Pixels lie `step` apart.
template <class F>
typename F::Storage forward_window(const typename F::Storage* image, i64 step, i64 oy, i64 ox, const Geometry& g,
                                   u8 (&marks)[32]) {
  using T = typename F::Storage;
  bool found = false, nan = false;
  T best = F::value(F::lowest());
  std::memset(marks, 0, sizeof marks);
  for (i64 ky = 0; ky < g.kernel_y; ++ky) {
    const i64 y = oy * g.stride_y - g.padding_y + ky * g.dilation_y;
    if (y < 0 || y >= g.height) continue;
    for (i64 kx = 0; kx < g.kernel_x; ++kx) {
      const i64 x = ox * g.stride_x - g.padding_x + kx * g.dilation_x;
      if (x < 0 || x >= g.width) continue;
      const i64 entry = ky * g.kernel_x + kx;
      const T v = image[(y * g.width + x) * step];
      if (F::is_nan(v) || !found || (!nan && F::key(v) > F::key(best))) {
        std::memset(marks, 0, sizeof marks);
        best = v;
        nan = F::is_nan(v);
        found = true;
      } else if (nan || F::key(v) != F::key(best)) {
        continue;
      }
      marks[entry / 8] |= u8(1u << (entry % 8));
    }
  }
  return best;
}

template <class F>
void forward_row_scalar(const typename F::Storage* image, typename F::Storage* out, u8* mask, i64 oy,
                        const Geometry& g) {
  u8 marks[32];
  for (i64 ox = 0; ox < g.columns; ++ox) {
    out[ox] = forward_window<F>(image, 1, oy, ox, g, marks);
    for (i64 plane = 0; plane < g.planes(); ++plane) mask[plane * g.windows() + ox] = marks[plane];
  }
}

// The windows of a block of rows, 2x2 with stride 2: `v` holds the four entries of each, entry by entry.
template <class F>
bool forward_block_2x2(const typename F::Storage (*v)[BLOCK], typename F::Storage* __restrict out,
                       u8* __restrict mask, i64 n) {
  using T = typename F::Storage;
  using K = typename F::Key;
  using U = typename F::Bits;
  alignas(64) U marks[BLOCK];
  alignas(64) T best[BLOCK];
  alignas(64) U strange[LANES] = {};
  for (i64 from = 0; from < n; from += LANES)
    for (i64 lane = 0; lane < LANES; ++lane) {
      const i64 i = from + lane;
      const T v0 = v[0][i], v1 = v[1][i], v2 = v[2][i], v3 = v[3][i];
      const K k0 = F::key(v0), k1 = F::key(v1), k2 = F::key(v2), k3 = F::key(v3);
      const K top = k1 > k0 ? k1 : k0, low = k3 > k2 ? k3 : k2;
      const T vtop = k1 > k0 ? v1 : v0, vlow = k3 > k2 ? v3 : v2;
      const K k = low > top ? low : top;
      best[i] = low > top ? vlow : vtop;
      marks[i] = (k0 == k ? U(1) : U(0)) | (k1 == k ? U(2) : U(0)) | (k2 == k ? U(4) : U(0)) |
                 (k3 == k ? U(8) : U(0));
      strange[lane] |= (F::is_nan(v0) ? U(1) : U(0)) | (F::is_nan(v1) ? U(1) : U(0)) |
                       (F::is_nan(v2) ? U(1) : U(0)) | (F::is_nan(v3) ? U(1) : U(0));
    }
  std::memcpy(out, best, std::size_t(n) * sizeof(T));
  for (i64 i = 0; i < n; ++i) mask[i] = u8(marks[i]);
  U any = 0;
  for (const U flag : strange) any |= flag;
  return any == 0;
}

// Rows of windows that go through the vector loops together.
i64 rows_of_block(const Geometry& g) { return std::max<i64>(1, BLOCK / g.columns); }

// body(n), where a width that the pools of small networks have is a constant: short rows are then a few
// instructions each instead of a loop with its remainder.
template <class Body>
inline void for_width(i64 n, Body body) {
  switch (n) {
    case 1: return body(std::integral_constant<i64, 1>{});
    case 2: return body(std::integral_constant<i64, 2>{});
    case 4: return body(std::integral_constant<i64, 4>{});
    case 8: return body(std::integral_constant<i64, 8>{});
    case 12: return body(std::integral_constant<i64, 12>{});
    case 16: return body(std::integral_constant<i64, 16>{});
    case 32: return body(std::integral_constant<i64, 32>{});
    default: return body(n);
  }
}

template <class T>
inline __attribute__((always_inline)) void split_pairs(const T* __restrict from, T* __restrict even,
                                                       T* __restrict odd, i64 n) {
  for (i64 i = 0; i < n; ++i) {
    even[i] = from[2 * i];
    odd[i] = from[2 * i + 1];
  }
}

template <class F>
void forward_rows_2x2(const typename F::Storage* x, typename F::Storage* out, u8* mask, i64 first, i64 end,
                      const Geometry& g) {
  using T = typename F::Storage;
  alignas(64) T v[4][BLOCK] = {};
  for (i64 column = 0; column < g.columns; column += BLOCK) {
    const i64 n = std::min(BLOCK, g.columns - column);
    for_width(n, [&](auto width) {
      i64 oy = first % g.rows, to = 0;
      const T* a = x + (first / g.rows * g.height + oy * 2) * g.width + 2 * column;
      for (i64 row = first; row < end; ++row, to += width) {
        split_pairs(a, v[0] + to, v[1] + to, width);
        split_pairs(a + g.width, v[2] + to, v[3] + to, width);
        a += 2 * g.width;
        if (++oy == g.rows) {
          oy = 0;
          a += (g.height - 2 * g.rows) * g.width;
        }
      }
    });
    const i64 at = first * g.columns + column;
    if (forward_block_2x2<F>(v, out + at, mask + at, (end - first) * n)) continue;
    for (i64 row = first; row < end; ++row)
      forward_row_scalar<F>(x + row / g.rows * g.height * g.width, out + row * g.columns, mask + row * g.columns,
                            row % g.rows, g);
  }
}

// The pixels of one phase of a row: x = first + i * stride lies at place skipped + i of the phase.
struct Phase {
  i64 skipped, first, number;
  Phase(i64 phase, const Geometry& g) {
    skipped = std::max<i64>(0, (g.padding_x - phase + g.stride_x - 1) / g.stride_x);
    first = skipped * g.stride_x + phase - g.padding_x;
    number = first < g.width ? (g.width - 1 - first) / g.stride_x + 1 : 0;
  }
};

template <class F>
bool load_phase(const typename F::Storage* __restrict from, i64 stride, typename F::Key* __restrict to, i64 n) {
  using U = typename F::Bits;
  U strange = 0;
  for (i64 i = 0; i < n; ++i) {
    const auto v = from[i * stride];
    to[i] = F::key(v);
    strange |= (F::is_nan(v) ? U(1) : U(0)) | (F::is_negative_zero(v) ? U(1) : U(0));
  }
  return strange != 0;
}

// Any geometry: rows of pixels are split into `stride` phases, so that each entry of the kernel is a contiguous
// run along a row of windows. A ring holds as many rows as a window spans.
template <class F>
void forward_image(const typename F::Storage* image, typename F::Storage* out, u8* mask, const Geometry& g,
                   std::vector<typename F::Key>& ring) {
  using T = typename F::Storage;
  using K = typename F::Key;
  using U = typename F::Bits;
  const i64 length = g.phase_length(), span = g.span_y(), row_size = length * g.stride_x;
  ring.assign(std::size_t(span * row_size + LANES), F::absent());
  std::vector<char> strange(std::size_t(span), 0);
  const K* taps[255];
  i64 entries[255];
  i64 loaded = 0;
  for (i64 oy = 0; oy < g.rows; ++oy) {
    const i64 start = oy * g.stride_y - g.padding_y, end = std::min(start + span, g.height);
    for (loaded = std::max(loaded, std::max<i64>(start, 0)); loaded < end; ++loaded) {
      bool flag = false;
      for (i64 phase = 0; phase < g.stride_x; ++phase) {
        const Phase p(phase, g);
        const T* from = image + loaded * g.width + p.first;
        K* to = ring.data() + (loaded % span) * row_size + phase * length + p.skipped;
        flag |= g.stride_x == 1   ? load_phase<F>(from, 1, to, p.number)
                : g.stride_x == 2 ? load_phase<F>(from, 2, to, p.number)
                                  : load_phase<F>(from, g.stride_x, to, p.number);
      }
      strange[std::size_t(loaded % span)] = flag;
    }
    bool scalar = false;
    i64 num_taps = 0;
    for (i64 ky = 0; ky < g.kernel_y; ++ky) {
      const i64 y = start + ky * g.dilation_y;
      if (y < 0 || y >= g.height) continue;
      scalar |= strange[std::size_t(y % span)] != 0;
      for (i64 kx = 0; kx < g.kernel_x; ++kx) {
        const i64 offset = kx * g.dilation_x;
        entries[num_taps] = ky * g.kernel_x + kx;
        taps[num_taps++] = ring.data() + (y % span) * row_size + offset % g.stride_x * length + offset / g.stride_x;
      }
    }
    T* out_row = out + oy * g.columns;
    u8* mask_row = mask + oy * g.columns;
    if (scalar) {
      forward_row_scalar<F>(image, out_row, mask_row, oy, g);
      continue;
    }
    for (i64 from = 0; from < g.columns; from += LANES) {
      const i64 n = std::min(LANES, g.columns - from);
      alignas(64) K best[LANES];
      for (i64 i = 0; i < LANES; ++i) best[i] = F::lowest();
      for (i64 tap = 0; tap < num_taps; ++tap) {
        const K* __restrict v = taps[tap] + from;
        for (i64 i = 0; i < LANES; ++i) best[i] = v[i] > best[i] ? v[i] : best[i];
      }
      for (i64 plane = 0, tap = 0; plane < g.planes(); ++plane) {
        alignas(64) U marks[LANES] = {};
        for (; tap < num_taps && entries[tap] / 8 == plane; ++tap) {
          const K* __restrict v = taps[tap] + from;
          const U bit = U(U(1) << (entries[tap] % 8));
          for (i64 i = 0; i < LANES; ++i) marks[i] |= U(U(0) - U(v[i] == best[i])) & bit;
        }
        alignas(64) u8 bytes[LANES];
        for (i64 i = 0; i < LANES; ++i) bytes[i] = u8(marks[i]);
        std::memcpy(mask_row + plane * g.windows() + from, bytes, std::size_t(n));
      }
      alignas(64) T values[LANES];
      for (i64 i = 0; i < LANES; ++i) values[i] = F::value(best[i]);
      std::memcpy(out_row + from, values, std::size_t(n) * sizeof(T));
    }
  }
}

// Channels that lie together: each window is LANES channels wide, the last ones a copy with room to spare.
template <class F>
void forward_together(const typename F::Storage* image, typename F::Storage* out, u8* mask, const Geometry& g) {
  using T = typename F::Storage;
  using K = typename F::Key;
  using U = typename F::Bits;
  const i64 C = g.channels;
  const T* taps[255];
  i64 entries[255];
  for (i64 window = 0; window < g.rows * g.columns; ++window) {
    const i64 oy = window / g.columns, ox = window % g.columns;
    i64 num_taps = 0;
    for (i64 entry = 0; entry < g.entries(); ++entry) {
      const i64 y = oy * g.stride_y - g.padding_y + entry / g.kernel_x * g.dilation_y;
      const i64 x = ox * g.stride_x - g.padding_x + entry % g.kernel_x * g.dilation_x;
      if (y < 0 || y >= g.height || x < 0 || x >= g.width) continue;
      entries[num_taps] = entry;
      taps[num_taps++] = image + (y * g.width + x) * C;
    }
    for (i64 from = 0; from < C; from += LANES) {
      const i64 n = std::min(LANES, C - from);
      alignas(64) T spare[LANES] = {};
      alignas(64) K best[LANES];
      alignas(64) U strange[LANES] = {};
      const auto lanes_of = [&](i64 tap) -> const T* {
        if (n == LANES) return taps[tap] + from;
        std::memcpy(spare, taps[tap] + from, std::size_t(n) * sizeof(T));
        return spare;
      };
      for (i64 i = 0; i < LANES; ++i) best[i] = F::lowest();
      for (i64 tap = 0; tap < num_taps; ++tap) {
        const T* v = lanes_of(tap);
        for (i64 i = 0; i < LANES; ++i) {
          const K k = F::key(v[i]);
          best[i] = k > best[i] ? k : best[i];
          strange[i] |= U(F::is_nan(v[i])) | U(F::is_negative_zero(v[i]));
        }
      }
      U any = 0;
      for (const U flag : strange) any |= flag;
      const i64 at = window * C + from;
      if (any) {
        u8 marks[32];
        for (i64 i = 0; i < n; ++i) {
          out[at + i] = forward_window<F>(image + from + i, C, oy, ox, g, marks);
          for (i64 plane = 0; plane < g.planes(); ++plane) mask[plane * g.windows() + at + i] = marks[plane];
        }
        continue;
      }
      for (i64 plane = 0, tap = 0; plane < g.planes(); ++plane) {
        alignas(64) U marks[LANES] = {};
        for (; tap < num_taps && entries[tap] / 8 == plane; ++tap) {
          const T* v = lanes_of(tap);
          const U bit = U(U(1) << (entries[tap] % 8));
          for (i64 i = 0; i < LANES; ++i) marks[i] |= U(U(0) - U(F::key(v[i]) == best[i])) & bit;
        }
        alignas(64) u8 bytes[LANES];
        for (i64 i = 0; i < LANES; ++i) bytes[i] = u8(marks[i]);
        std::memcpy(mask + plane * g.windows() + at, bytes, std::size_t(n));
      }
      alignas(64) T values[LANES];
      for (i64 i = 0; i < LANES; ++i) values[i] = F::value(best[i]);
      std::memcpy(out + at, values, std::size_t(n) * sizeof(T));
    }
  }
}

// ---- backward ------------------------------------------------------------------------------------------

enum Rule { FIRST = 0, LAST = 1, RANDOM = 2, ALL_ONES = 3, BETA = 4 };

struct Sharing {
  Rule rule;
  double beta;
  u64 seed;
};

inline u64 draw(u64 index, u64 seed) {
  u64 z = index * 0x9E3779B97F4A7C15ull + seed;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return (z ^ (z >> 31)) >> 33;
}

inline u8 num_bits(u8 byte) {
  const u8 pairs = u8(byte - ((byte >> 1) & 0x55));
  const u8 nibbles = u8((pairs & 0x33) + ((pairs >> 2) & 0x33));
  return u8((nibbles + (nibbles >> 4)) & 0x0f);
}

// The entries that get anything, for n windows with the numbers index, index + step, and so on; planes of masks
// lie `stride` bytes apart, of what is selected n.
void select(const u8* mask, i64 stride, u8* selected, i64 n, i64 planes, u64 index, u64 step,
            const Sharing& sharing) {
  if (sharing.rule == FIRST && planes == 1) {
    for (i64 i = 0; i < n; ++i) selected[i] = u8(mask[i] & -mask[i]);
    return;
  }
  if (sharing.rule == BETA || sharing.rule == ALL_ONES) {
    for (i64 plane = 0; plane < planes; ++plane) std::memcpy(selected + plane * n, mask + plane * stride, n);
    return;
  }
  if (sharing.rule == FIRST) {
    std::vector<u8> seen(std::size_t(n), 0);
    u8* __restrict before = seen.data();
    for (i64 plane = 0; plane < planes; ++plane) {
      const u8* __restrict from = mask + plane * stride;
      u8* __restrict to = selected + plane * n;
      for (i64 i = 0; i < n; ++i) {
        to[i] = before[i] ? u8(0) : u8(from[i] & -from[i]);
        before[i] |= from[i];
      }
    }
    return;
  }
  for (i64 i = 0; i < n; ++i) {
    u64 number = 0;
    for (i64 plane = 0; plane < planes; ++plane) number += num_bits(mask[plane * stride + i]);
    u64 rank = sharing.rule == LAST ? number - 1 : (draw(index + u64(i) * step, sharing.seed) * number) >> 31;
    for (i64 plane = 0; plane < planes; ++plane) {
      u8 byte = mask[plane * stride + i], kept = 0;
      for (; number && byte; byte = u8(byte & (byte - 1)), --rank)
        if (rank == 0) kept = u8(byte & -byte);
      selected[plane * n + i] = kept;
    }
  }
}

template <class U, class T>
inline __attribute__((always_inline)) void join_pairs(const U* __restrict even, const U* __restrict odd, T* to, i64 n) {
  U* words = reinterpret_cast<U*>(to);
  for (i64 i = 0; i < n; ++i) {
    words[2 * i] = even[i];
    words[2 * i + 1] = odd[i];
  }
}

// Shares of n windows: `own` of the first tied entry, `other` of each other one, before they are rounded.
template <class F>
void share(const typename F::Wide* __restrict gradient, const typename F::Wide* __restrict number,
           typename F::Wide* __restrict own, typename F::Wide* __restrict other, i64 n, double beta) {
  using W = typename F::Wide;
  const W scale = W(beta), rest = W(1.0 - beta);
  if (beta == 1.0)
    for_lanes(n, [=](i64 i) {
      const W g = gradient[i], part = g / number[i];
      own[i] = other[i] = number[i] > W(1) ? part : g;
    });
  else
    for_lanes(n, [=](i64 i) {
      const W g = gradient[i], part = scale * (g / number[i]), first = part + rest * g;
      own[i] = number[i] > W(1) ? first : g;
      other[i] = number[i] > W(1) ? part : g;
    });
}

template <class U>
inline U everywhere(U bit) {  // all ones if the lowest bit is set, else none
  return U(U(0) - (bit & U(1)));
}

template <class F>
void backward_rows_2x2(const typename F::Storage* gradient, const u8* mask, typename F::Storage* result, i64 first,
                       i64 end, const Geometry& g, const Sharing& sharing) {
  using T = typename F::Storage;
  using W = typename F::Wide;
  using U = typename F::Bits;
  alignas(64) u8 selected[BLOCK] = {};
  alignas(64) W wide[BLOCK] = {}, number[BLOCK];
  [[maybe_unused]] alignas(64) W wide_own[BLOCK], wide_other[BLOCK];
  alignas(64) T own[BLOCK] = {}, other[BLOCK] = {};
  alignas(64) U e[4][BLOCK];
  for (i64 column = 0; column < g.columns; column += BLOCK) {
    const i64 n = std::min(BLOCK, g.columns - column), all = n * (end - first), at = first * g.columns + column;
    select(mask + at, 0, selected, all, 1, u64(at), 1, sharing);
    if (sharing.rule == BETA) {
      F::widen(gradient + at, wide, all);
      for_lanes(all, [&](i64 i) { number[i] = W(std::int32_t(num_bits(selected[i]))); });
      if constexpr (std::is_same_v<T, W>) {
        share<F>(wide, number, own, other, all, sharing.beta);
      } else {
        share<F>(wide, number, wide_own, wide_other, all, sharing.beta);
        F::narrow(wide_own, own, padded(all));
        F::narrow(wide_other, other, padded(all));
      }
      for_lanes(all, [&](i64 i) {
        U a, b;
        std::memcpy(&a, own + i, sizeof a);
        std::memcpy(&b, other + i, sizeof b);
        a = F::plus_zero_bits(a);
        b = F::plus_zero_bits(b);
        const U m = selected[i], f = U(m & (U(0) - m)), r = U(m ^ f);
        e[0][i] = U(everywhere(f) & a);  // entry 0 is the first if it is tied
        e[1][i] = U((everywhere(U(f >> 1)) & a) | (everywhere(U(r >> 1)) & b));
        e[2][i] = U((everywhere(U(f >> 2)) & a) | (everywhere(U(r >> 2)) & b));
        e[3][i] = U((everywhere(U(f >> 3)) & a) | (everywhere(U(r >> 3)) & b));
      });
    } else {
      std::memcpy(own, gradient + at, std::size_t(all) * sizeof(T));
      for_lanes(all, [&](i64 i) {
        U a;
        std::memcpy(&a, own + i, sizeof a);
        a = F::plus_zero_bits(a);
        const U m = selected[i];
        e[0][i] = U(everywhere(m) & a);
        e[1][i] = U(everywhere(U(m >> 1)) & a);
        e[2][i] = U(everywhere(U(m >> 2)) & a);
        e[3][i] = U(everywhere(U(m >> 3)) & a);
      });
    }
    for_width(n, [&](auto width) {
      i64 oy = first % g.rows, from = 0;
      T* a = result + (first / g.rows * g.height + oy * 2) * g.width + 2 * column;
      for (i64 row = first; row < end; ++row, from += width) {
        join_pairs(e[0] + from, e[1] + from, a, width);
        join_pairs(e[2] + from, e[3] + from, a + g.width, width);
        if (column + n == g.columns)
          for (i64 x = 2 * n; x < g.width - 2 * column; ++x) a[x] = a[g.width + x] = T(0);
        a += 2 * g.width;
        if (++oy == g.rows) {
          oy = 0;
          const i64 rest = (g.height - 2 * g.rows) * g.width;
          if (column + n == g.columns) std::fill(a - 2 * column, a - 2 * column + rest, T(0));
          a += rest;
        }
      }
    });
  }
}

// What each entry of some windows gets, in the storage format but as wide numbers. Arrays are as long as whole
// vectors; beyond the windows nothing is selected.
template <class F>
struct Parts {
  using T = typename F::Storage;
  using W = typename F::Wide;
  using U = typename F::WideBits;
  i64 many, planes;
  std::vector<W> wide, own, other, number, part;
  std::vector<U> firsts, others;  // bits of the first entry that gets anything, and of the others
  std::vector<u8> selected;
  std::vector<T> narrow;

  Parts(i64 most, i64 num_planes)
      : many(padded(most)), planes(num_planes), wide(std::size_t(many)), own(wide), other(wide), number(wide),
        part(wide), firsts(std::size_t(planes * many)), others(firsts), selected(std::size_t(planes * most)),
        narrow(std::size_t(many)) {}

  void load(const T* gradient, const u8* mask, i64 stride, i64 n, u64 index, u64 step, const Sharing& sharing) {
    select(mask, stride, selected.data(), n, planes, index, step, sharing);
    F::widen(gradient, wide.data(), n);
    std::fill(number.begin(), number.end(), W(0));
    std::fill(firsts.begin(), firsts.end(), U(0));
    std::fill(others.begin(), others.end(), U(0));
    for (i64 plane = 0; plane < planes; ++plane) {
      const u8* from = selected.data() + plane * n;
      U *f = firsts.data() + plane * many, *r = others.data() + plane * many;
      W* count = number.data();
      for (i64 i = 0; i < n; ++i) {
        const U m = from[i];
        f[i] = count[i] == W(0) ? U(m & (U(0) - m)) : U(0);
        r[i] = U(m ^ f[i]);
        count[i] += W(std::int32_t(num_bits(from[i])));
      }
    }
    if (sharing.rule != BETA) {
      own = other = wide;
      return;
    }
    share<F>(wide.data(), number.data(), own.data(), other.data(), many, sharing.beta);
    if constexpr (!std::is_same_v<T, W>)
      for (W* shares : {own.data(), other.data()}) {
        F::narrow(shares, narrow.data(), many);
        F::widen(narrow.data(), shares, many);
      }
  }

  const W* of(i64 entry) {
    const U* __restrict f = firsts.data() + entry / 8 * many;
    const U* __restrict r = others.data() + entry / 8 * many;
    const W *mine = own.data(), *theirs = other.data();
    W* to = part.data();
    const i64 shift = entry % 8;
    for_lanes(many, [=](i64 i) {
      U a, b;
      std::memcpy(&a, mine + i, sizeof a);
      std::memcpy(&b, theirs + i, sizeof b);
      const U bits = U((everywhere(U(f[i] >> shift)) & a) | (everywhere(U(r[i] >> shift)) & b));
      std::memcpy(to + i, &bits, sizeof bits);
    });
    return to;
  }
};

// Any geometry: sums are kept in the phases of `forward_image`, one ring slot a row of pixels, and a row is
// written once no later window reaches it. Entries go from last to first: the windows of a pixel then come in
// ascending order.
template <class F>
void backward_image(const typename F::Storage* gradient, const u8* mask, typename F::Storage* result, i64 image,
                    const Geometry& g, const Sharing& sharing, Parts<F>& parts,
                    std::vector<typename F::Wide>& ring) {
  using T = typename F::Storage;
  using W = typename F::Wide;
  const i64 length = g.phase_length(), span = g.span_y(), row_size = length * g.stride_x, n = g.columns;
  ring.assign(std::size_t(span * row_size + LANES), W(0));
  std::vector<T> narrow(static_cast<std::size_t>(row_size));
  i64 written = 0;
  const auto write_rows = [&](i64 end) {
    for (; written < end; ++written) {
      W* slot = ring.data() + (written % span) * row_size;
      T* row = result + written * g.width;
      F::narrow(slot, narrow.data(), row_size);
      for (i64 phase = 0; phase < g.stride_x; ++phase) {
        const Phase p(phase, g);
        const T* from = narrow.data() + phase * length + p.skipped;
        for (i64 i = 0; i < p.number; ++i) row[p.first + i * g.stride_x] = from[i];
      }
      std::fill(slot, slot + row_size, W(0));
    }
  };
  for (i64 oy = 0; oy < g.rows; ++oy) {
    const i64 start = oy * g.stride_y - g.padding_y, at = oy * n;
    write_rows(std::min(std::max<i64>(start, 0), g.height));
    parts.load(gradient + at, mask + at, g.windows(), n, u64(image * g.rows * n + at), 1, sharing);
    for (i64 ky = g.kernel_y - 1; ky >= 0; --ky) {
      const i64 y = start + ky * g.dilation_y;
      if (y < 0 || y >= g.height) continue;
      for (i64 kx = g.kernel_x - 1; kx >= 0; --kx) {
        const i64 offset = kx * g.dilation_x;
        W* sum = ring.data() + (y % span) * row_size + offset % g.stride_x * length + offset / g.stride_x;
        F::add(sum, parts.of(ky * g.kernel_x + kx), padded(n));
      }
    }
  }
  while (written < g.height) write_rows(std::min(written + span, g.height));
}

// Channels that lie together: windows in ascending order, each added to its pixels, channels side by side.
template <class F>
void backward_together(const typename F::Storage* gradient, const u8* mask, typename F::Storage* result, i64 image,
                       const Geometry& g, const Sharing& sharing, Parts<F>& parts) {
  using T = typename F::Storage;
  using W = typename F::Wide;
  const i64 C = g.channels, area = g.rows * g.columns;
  std::fill(result, result + g.height * g.width * C, T(0));
  alignas(64) W sum[LANES];
  for (i64 window = 0; window < area; ++window) {
    const i64 top = window / g.columns * g.stride_y - g.padding_y;
    const i64 left = window % g.columns * g.stride_x - g.padding_x;
    for (i64 from = 0; from < C; from += LANES) {
      const i64 n = std::min(LANES, C - from), at = window * C + from;
      const u64 index = u64((image * C + from) * area + window);
      parts.load(gradient + at, mask + at, g.windows(), n, index, u64(area), sharing);
      for (i64 entry = 0; entry < g.entries(); ++entry) {
        const i64 y = top + entry / g.kernel_x * g.dilation_y, x = left + entry % g.kernel_x * g.dilation_x;
        if (y < 0 || y >= g.height || x < 0 || x >= g.width) continue;
        T* to = result + (y * g.width + x) * C + from;
        F::widen(to, sum, n);
        const W* part = parts.of(entry);
        for (i64 i = 0; i < n; ++i) sum[i] += part[i];
        F::narrow(sum, to, n);
      }
    }
  }
}

template <class F>
void forward(const void* x, void* out, u8* mask, const Geometry& g, int threads) {
  using T = typename F::Storage;
  const auto* from = static_cast<const T*>(x);
  auto* to = static_cast<T*>(out);
  expect_large(out, g.windows() * i64(sizeof(T)));
  const bool small = g.is_2x2();
  const i64 rows = g.images * g.rows, step = rows_of_block(g);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<typename F::Key> ring;
    if (small) {
#pragma omp for schedule(static)
      for (i64 row = 0; row < rows; row += step)
        forward_rows_2x2<F>(from, to, mask, row, std::min(row + step, rows), g);
    } else {
#pragma omp for schedule(static)
      for (i64 image = 0; image < g.images; ++image) {
        const T* pixels = from + image * g.height * g.width * g.channels;
        const i64 at = image * g.rows * g.columns * g.channels;
        if (g.channels == 1)
          forward_image<F>(pixels, to + at, mask + at, g, ring);
        else
          forward_together<F>(pixels, to + at, mask + at, g);
      }
    }
  }
}

template <class F>
void backward(const void* gradient, const u8* mask, void* result, const Geometry& g, const Sharing& sharing,
              int threads) {
  using T = typename F::Storage;
  const auto* from = static_cast<const T*>(gradient);
  auto* to = static_cast<T*>(result);
  expect_large(result, g.images * g.channels * g.height * g.width * i64(sizeof(T)));
  const bool small = g.is_2x2();
  const i64 rows = g.images * g.rows, step = rows_of_block(g);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<typename F::Wide> ring;
    Parts<F> parts(g.channels == 1 ? g.columns : LANES, g.planes());
    if (small) {
#pragma omp for schedule(static)
      for (i64 row = 0; row < rows; row += step)
        backward_rows_2x2<F>(from, mask, to, row, std::min(row + step, rows), g, sharing);
    } else {
#pragma omp for schedule(static)
      for (i64 image = 0; image < g.images; ++image) {
        const i64 at = image * g.rows * g.columns * g.channels;
        T* pixels = to + image * g.height * g.width * g.channels;
        if (g.channels == 1)
          backward_image<F>(from + at, mask + at, pixels, image, g, sharing, parts, ring);
        else
          backward_together<F>(from + at, mask + at, pixels, image, g, sharing, parts);
      }
    }
  }
}

template <class F>
i64 live(const void* out, const u8* mask, i64 windows, i64 planes) {
  const auto* values = static_cast<const typename F::Storage*>(out);
  i64 total = 0;
  if (planes == 1) {
    for (i64 from = 0; from < windows; from += BLOCK) {
      const i64 n = std::min(BLOCK, windows - from);
      u16 count = 0;
      for (i64 i = from; i < from + n; ++i)
        count = u16(count + (((mask[i] & (mask[i] - 1)) != 0) & (F::key(values[i]) != 0)));
      total += count;
    }
    return total;
  }
  for (i64 i = 0; i < windows; ++i) {
    int number = 0;
    for (i64 plane = 0; plane < planes; ++plane) number += num_bits(mask[plane * windows + i]);
    total += number > 1 && F::key(values[i]) != 0;
  }
  return total;
}

}  // namespace

extern "C" {

// Formats: 0 float, 1 double, 2 binary16, 3 bfloat16.
void tiebreak_pool_forward(int format, const void* x, void* out, void* mask, const std::int64_t* numbers,
                           int threads) {
  Geometry g;
  std::memcpy(&g, numbers, sizeof g);
  auto* marks = static_cast<u8*>(mask);
  switch (format) {
    case 0: return forward<Binary<float>>(x, out, marks, g, threads);
    case 1: return forward<Binary<double>>(x, out, marks, g, threads);
    case 2: return forward<Float16>(x, out, marks, g, threads);
    default: return forward<BFloat16>(x, out, marks, g, threads);
  }
}

void tiebreak_pool_backward(int format, const void* gradient, const void* mask, void* result,
                            const std::int64_t* numbers, int rule, double beta, std::uint64_t seed, int threads) {
  Geometry g;
  std::memcpy(&g, numbers, sizeof g);
  const Sharing sharing{Rule(rule), beta, seed};
  const auto* marks = static_cast<const u8*>(mask);
  switch (format) {
    case 0: return backward<Binary<float>>(gradient, marks, result, g, sharing, threads);
    case 1: return backward<Binary<double>>(gradient, marks, result, g, sharing, threads);
    case 2: return backward<Float16>(gradient, marks, result, g, sharing, threads);
    default: return backward<BFloat16>(gradient, marks, result, g, sharing, threads);
  }
}

std::int64_t tiebreak_pool_live(int format, const void* out, const void* mask, std::int64_t windows,
                                std::int64_t planes) {
  const auto* marks = static_cast<const u8*>(mask);
  switch (format) {
    case 0: return live<Binary<float>>(out, marks, windows, planes);
    case 1: return live<Binary<double>>(out, marks, windows, planes);
    case 2: return live<Float16>(out, marks, windows, planes);
    default: return live<BFloat16>(out, marks, windows, planes);
  }
}
}
