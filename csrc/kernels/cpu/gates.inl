// Gates as bits. See gates.h. Included once per target, after elements.h.

namespace tfc::cpu::TFC_TARGET {
namespace {

typedef uint64_t NativeWords __attribute__((vector_size(TFC_VECTOR_BYTES)));

// ---- packing -----------------------------------------------------------------------------------
// As signed integers the bits of positive numbers are those from 1 to infinity: no comparison of
// floating-point numbers, which may take a denormal number for 0.

template <typename T>
struct Sign;
template <>
struct Sign<float> {
  using Whole = int32_t;
  static constexpr Whole kInfinity = 0x7f800000;
};
template <>
struct Sign<double> {
  using Whole = int64_t;
  static constexpr Whole kInfinity = 0x7ff0000000000000;
};
template <>
struct Sign<BFloat16> {
  using Whole = int16_t;
  static constexpr Whole kInfinity = 0x7f80;
};
template <>
struct Sign<Float16> {
  using Whole = int16_t;
  static constexpr Whole kInfinity = 0x7c00;
};

#if TFC_VECTOR_BYTES == 64

TFC_INLINE uint64_t open_bits(const char* from, int16_t infinity) {
  const __m512i x = _mm512_loadu_si512(from);
  const __mmask32 positive = _mm512_cmpgt_epi16_mask(x, _mm512_setzero_si512());
  return _mm512_mask_cmple_epi16_mask(positive, x, _mm512_set1_epi16(infinity));
}
TFC_INLINE uint64_t open_bits(const char* from, int32_t infinity) {
  const __m512i x = _mm512_loadu_si512(from);
  const __mmask16 positive = _mm512_cmpgt_epi32_mask(x, _mm512_setzero_si512());
  return _mm512_mask_cmple_epi32_mask(positive, x, _mm512_set1_epi32(infinity));
}
TFC_INLINE uint64_t open_bits(const char* from, int64_t infinity) {
  const __m512i x = _mm512_loadu_si512(from);
  const __mmask8 positive = _mm512_cmpgt_epi64_mask(x, _mm512_setzero_si512());
  return _mm512_mask_cmple_epi64_mask(positive, x, _mm512_set1_epi64(infinity));
}
template <typename Whole>
constexpr int kBitsAtOnce = TFC_VECTOR_BYTES / sizeof(Whole);

#elif defined(__SSE2__)

// -1 in lanes of open units, else 0.
template <typename Whole>
TFC_INLINE auto open_lanes(const char* from, Whole infinity) {
  typedef Whole Native __attribute__((vector_size(TFC_VECTOR_BYTES)));
  Native x;
  get_vector(x, from);
  return (x > 0) & (x <= Native{} + infinity);
}

TFC_INLINE uint64_t open_bits(const char* from, int32_t infinity) {
#if TFC_VECTOR_BYTES == 32
  return (uint32_t)_mm256_movemask_ps((__m256)open_lanes(from, infinity));
#else
  return (uint32_t)_mm_movemask_ps((__m128)open_lanes(from, infinity));
#endif
}
TFC_INLINE uint64_t open_bits(const char* from, int64_t infinity) {
#if TFC_VECTOR_BYTES == 32
  return (uint32_t)_mm256_movemask_pd((__m256d)open_lanes(from, infinity));
#else
  return (uint32_t)_mm_movemask_pd((__m128d)open_lanes(from, infinity));
#endif
}
// Two vectors: their lanes become bytes.
TFC_INLINE uint64_t open_bits(const char* from, int16_t infinity) {
  const auto low = open_lanes(from, infinity);
  const auto high = open_lanes(from + TFC_VECTOR_BYTES, infinity);
#if TFC_VECTOR_BYTES == 32
  const __m256i mixed = _mm256_packs_epi16((__m256i)low, (__m256i)high);
  return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(mixed, 0xd8));
#else
  return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16((__m128i)low, (__m128i)high));
#endif
}
template <typename Whole>
constexpr int kBitsAtOnce = sizeof(Whole) == 2 ? TFC_VECTOR_BYTES : TFC_VECTOR_BYTES / sizeof(Whole);

#else

template <typename Whole>
TFC_INLINE uint64_t open_bits(const char* from, Whole infinity) {
  Whole bits;
  get_vector(bits, from);
  return bits > 0 && bits <= infinity;
}
template <typename Whole>
constexpr int kBitsAtOnce = 1;

#endif

template <typename T>
TFC_INLINE uint64_t packed_word(const T* from) {
  using Whole = typename Sign<T>::Whole;
  constexpr int kStep = kBitsAtOnce<Whole>;
  uint64_t word = 0;
  for (int j = 0; j < kWordUnits; j += kStep) {
    word |= open_bits((const char*)(from + j), Sign<T>::kInfinity) << j;
  }
  return word;
}

template <typename T>
void pack_gates(const void* data, int64_t stride, int64_t width, int64_t first, int64_t last, uint64_t* out) {
  for (int64_t i = first; i < last; ++i) {
    const T* row = (const T*)data + i * stride;
    int64_t j = 0;
    for (; j + kWordUnits <= width; j += kWordUnits) *out++ = packed_word(row + j);
    if (j < width) {
      T padded[kWordUnits];
      std::memset(padded, 0, sizeof(padded));
      std::memcpy(padded, row + j, (width - j) * sizeof(T));
      *out++ = packed_word(padded);
    }
  }
}

// ---- ones --------------------------------------------------------------------------------------
// Ones of the words added, lane by lane.

#if defined(__AVX512VPOPCNTDQ__)

struct Ones {
  static constexpr int64_t kMostWords = int64_t{1} << 32;
  NativeWords count;
  TFC_INLINE void add(NativeWords x) { count += (NativeWords)_mm512_popcnt_epi64((__m512i)x); }
  TFC_INLINE NativeWords total() const { return count; }
};
constexpr int kBlockRows = 8;

#else

// Counted byte by byte: up to 8 ones of each word.
struct Ones {
  static constexpr int64_t kMostWords = 255 / 8;
  NativeWords count;
  TFC_INLINE void add(NativeWords x) { count += in_bytes(x); }

  TFC_INLINE NativeWords total() const {
    constexpr uint64_t kEverySecond = 0x00ff00ff00ff00ff;
    NativeWords sum = (count & kEverySecond) + ((count >> 8) & kEverySecond);
    sum += sum >> 16;
    sum += sum >> 32;
    return sum & 0xffff;
  }

 private:
#if TFC_VECTOR_BYTES >= 32
  // Looked up, half a byte at a time.
  static TFC_INLINE NativeWords in_bytes(NativeWords x) {
    constexpr uint64_t kLowHalves = 0x0f0f0f0f0f0f0f0f;
    const NativeWords low = x & kLowHalves;
    const NativeWords high = (x >> 4) & kLowHalves;
    const __m128i ones = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
#if TFC_VECTOR_BYTES == 64
    const __m512i table = _mm512_maskz_broadcast_i32x4((__mmask16)0xffff, ones);
    return (NativeWords)_mm512_add_epi8(_mm512_shuffle_epi8(table, (__m512i)low),
                                        _mm512_shuffle_epi8(table, (__m512i)high));
#else
    const __m256i table = _mm256_broadcastsi128_si256(ones);
    return (NativeWords)_mm256_add_epi8(_mm256_shuffle_epi8(table, (__m256i)low),
                                        _mm256_shuffle_epi8(table, (__m256i)high));
#endif
  }
#else
  // Pairs of bits, then fours, then eights.
  static TFC_INLINE NativeWords in_bytes(NativeWords x) {
    x -= (x >> 1) & 0x5555555555555555;
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
    return (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
  }
#endif
};
constexpr int kBlockRows = TFC_VECTOR_BYTES == 64 ? 4 : 1;

#endif

static_assert(kMostBlockRows % kBlockRows == 0);

// kBlockRows left rows and a group of columns of one panel, in registers.
constexpr int kVectorRows = TFC_VECTOR_BYTES / sizeof(uint64_t);
constexpr int kGroup = kPanelStep / kVectorRows < 4 ? kPanelStep / kVectorRows : 4;

TFC_INLINE void add_block(const uint64_t* left, const uint64_t* panel, int64_t words, int64_t first,
                          int64_t last, int32_t* tile, int64_t stride) {
  Ones ones[kBlockRows][kGroup] = {};
  for (int64_t w = first; w < last; ++w) {
    NativeWords right[kGroup];
    for (int v = 0; v < kGroup; ++v) {
      NativeWords words_of_rows;  // not straight into the array, which would then stay in memory
      get_vector(words_of_rows, panel + w * kPanelStep + v * kVectorRows);
      right[v] = words_of_rows;
    }
    for (int i = 0; i < kBlockRows; ++i) {
      const NativeWords word = NativeWords{} + left[i * words + w];
      for (int v = 0; v < kGroup; ++v) ones[i][v].add(word ^ right[v]);
    }
  }
  for (int i = 0; i < kBlockRows; ++i) {
    for (int v = 0; v < kGroup; ++v) {
      int32_t* to = tile + i * stride + v * kVectorRows;
      HalfInt sum;
      get_vector(sum, to);
      sum += __builtin_convertvector((NativeLong)ones[i][v].total(), HalfInt);
      put_vector(to, sum);
    }
  }
}

void add_differing(const uint64_t* left, const uint64_t* right, int64_t words, int64_t rows, int64_t panels,
                   int32_t* tile, int64_t stride) {
  for (int64_t p = 0; p < panels; ++p) {
    const uint64_t* panel = right + p * words * kPanelStep;
    for (int64_t i = 0; i < rows; i += kBlockRows) {
      for (int64_t column = 0; column < kPanelStep; column += kGroup * kVectorRows) {
        int32_t* to = tile + i * stride + p * kPanelStep + column;
        for (int64_t first = 0; first < words; first += Ones::kMostWords) {
          const int64_t last = words - first < Ones::kMostWords ? words : first + Ones::kMostWords;
          add_block(left + i * words, panel + column, words, first, last, to, stride);
        }
      }
    }
  }
}

// ---- quotients ---------------------------------------------------------------------------------

constexpr int32_t kExactAsFloat = 1 << 24;

// `quotient(differing, j)` of the cells from j on: a vector of them, or one.
template <typename Quotient>
TFC_INLINE void replace_cells(void* cells, int64_t count, bool one_by_one, const Quotient& quotient) {
  constexpr int64_t kWidth = sizeof(NativeInt) / sizeof(int32_t);
  char* cell = (char*)cells;
  int64_t j = 0;
  for (; !one_by_one && j + kWidth <= count; j += kWidth) {
    NativeInt differing;
    get_vector(differing, cell + j * sizeof(int32_t));
    const NativeFloat agreement = quotient(differing, j);
    put_vector(cell + j * sizeof(float), agreement);
  }
  for (; j < count; ++j) {
    int32_t differing;
    get_vector(differing, cell + j * sizeof(int32_t));
    const float agreement = quotient(differing, j);
    put_vector(cell + j * sizeof(float), agreement);
  }
}

TFC_INLINE NativeFloat divided(NativeInt part, NativeInt whole) {
  return __builtin_convertvector(part, NativeFloat) / __builtin_convertvector(whole, NativeFloat);
}
TFC_INLINE float divided(int32_t part, int32_t whole) { return (float)((double)part / (double)whole); }

struct Hamming {
  int32_t units;
  template <typename Cells>
  TFC_INLINE auto operator()(Cells differing, int64_t) const {
    return divided(units - differing, units + Cells{});
  }
};

struct Jaccard {
  int32_t open;
  const int32_t* open_others;
  template <typename Cells>
  TFC_INLINE auto operator()(Cells differing, int64_t j) const {
    Cells sum;
    get_vector(sum, open_others + j);
    sum += open;
    return divided((sum - differing) >> 1, (sum + differing) >> 1);
  }
};

void hamming(void* cells, int64_t count, int32_t units) {
  replace_cells(cells, count, units > kExactAsFloat, Hamming{units});
}

void jaccard(void* cells, int64_t count, int32_t units, int32_t open, const int32_t* open_others) {
  replace_cells(cells, count, units > kExactAsFloat, Jaccard{open, open_others});
}

constexpr GateKernels kGateKernels = {
    {pack_gates<float>, pack_gates<double>, pack_gates<BFloat16>, pack_gates<Float16>},
    add_differing,
    hamming,
    jaccard,
};

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
