// Sixteen lanes of float, double or int32 on whatever vector width the target has.
//
// Every instruction set sees the same sixteen lanes and the same order of additions, and no fused
// multiply-add is used (the build passes -ffp-contract=off), so all targets give the same bits.
//
// This header is included once per target (see targets/). Everything lives in the target's own
// namespace and nothing here instantiates a standard template: code compiled for AVX-512 must never
// be merged by the linker into a function that an older processor runs.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define TFC_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define TFC_VECTOR_BYTES 32
#else
#define TFC_VECTOR_BYTES 16
#endif

#define TFC_INLINE inline __attribute__((always_inline))

namespace tfc::cpu::TFC_TARGET {

constexpr int kLanes = 16;

typedef float NativeFloat __attribute__((vector_size(TFC_VECTOR_BYTES)));
typedef double NativeDouble __attribute__((vector_size(TFC_VECTOR_BYTES)));
typedef int32_t NativeInt __attribute__((vector_size(TFC_VECTOR_BYTES)));
typedef int64_t NativeLong __attribute__((vector_size(TFC_VECTOR_BYTES)));
typedef float HalfFloat __attribute__((vector_size(TFC_VECTOR_BYTES / 2)));
typedef int32_t HalfInt __attribute__((vector_size(TFC_VECTOR_BYTES / 2)));
typedef uint32_t NativeBits __attribute__((vector_size(TFC_VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(TFC_VECTOR_BYTES / 2)));

// One vector from or to any address. gcc copies 32 bytes by memcpy in halves and through memory, which takes
// several times as long.
template <typename Vector>
struct __attribute__((packed, may_alias)) VectorAnywhere {
  Vector value;
};
template <typename Vector>
TFC_INLINE void get_vector(Vector& value, const void* from) {
  value = ((const VectorAnywhere<Vector>*)from)->value;
}
template <typename Vector>
TFC_INLINE void put_vector(void* to, const Vector& value) {
  ((VectorAnywhere<Vector>*)to)->value = value;
}

template <typename Element, typename Native>
struct Pack {
  static constexpr int kParts = kLanes * sizeof(Element) / TFC_VECTOR_BYTES;
  static constexpr int kWidth = kLanes / kParts;
  Native part[kParts];
};
using Floats = Pack<float, NativeFloat>;
using Doubles = Pack<double, NativeDouble>;
using Ints = Pack<int32_t, NativeInt>;

template <typename P>
TFC_INLINE P zeros() {
  P out;
  for (int i = 0; i < P::kParts; ++i) out.part[i] = decltype(out.part[0] + out.part[0]){};
  return out;
}

template <typename E, typename N>
TFC_INLINE Pack<E, N> load(const E* from) {
  Pack<E, N> out;
  for (int i = 0; i < Pack<E, N>::kParts; ++i) {
    get_vector(out.part[i], from + i * Pack<E, N>::kWidth);
  }
  return out;
}

template <typename E, typename N>
TFC_INLINE void store(E* to, const Pack<E, N>& value) {
  for (int i = 0; i < Pack<E, N>::kParts; ++i) {
    put_vector(to + i * Pack<E, N>::kWidth, value.part[i]);
  }
}

template <typename P>
TFC_INLINE void add(P& sum, const P& value) {
  for (int i = 0; i < P::kParts; ++i) sum.part[i] += value.part[i];
}

template <typename P>
TFC_INLINE void add_square(P& sum, const P& value) {
  for (int i = 0; i < P::kParts; ++i) sum.part[i] += value.part[i] * value.part[i];
}

template <typename P>
TFC_INLINE void add_product(P& sum, const P& left, const P& right) {
  for (int i = 0; i < P::kParts; ++i) sum.part[i] += left.part[i] * right.part[i];
}

template <typename P, typename Scale>
TFC_INLINE void add_scaled(P& sum, const P& value, Scale scale) {
  for (int i = 0; i < P::kParts; ++i) sum.part[i] += value.part[i] * scale;
}

// ---- lanes greater than zero, counted; NaN counts as closed ----------------------------------

TFC_INLINE void count_positive(Ints& count, const Floats& value) {
#if TFC_VECTOR_BYTES == 64
  const __mmask16 open = _mm512_cmp_ps_mask((__m512)value.part[0], _mm512_setzero_ps(), _CMP_GT_OQ);
  count.part[0] = (NativeInt)_mm512_mask_sub_epi32((__m512i)count.part[0], open, (__m512i)count.part[0],
                                                   _mm512_set1_epi32(-1));
#else
  for (int i = 0; i < Floats::kParts; ++i) {
    count.part[i] -= (NativeInt)(value.part[i] > NativeFloat{});
  }
#endif
}

TFC_INLINE void count_positive(Ints& count, const Doubles& value) {
  alignas(64) int32_t lane[kLanes];
  for (int i = 0; i < Doubles::kParts; ++i) {
    const NativeLong open = value.part[i] > NativeDouble{};
    const HalfInt narrow = __builtin_convertvector(open, HalfInt);
    put_vector(lane + i * Doubles::kWidth, narrow);
  }
  for (int i = 0; i < Ints::kParts; ++i) {
    NativeInt open;
    get_vector(open, lane + i * Ints::kWidth);
    count.part[i] -= open;
  }
}

// ---- floats to doubles and back --------------------------------------------------------------

TFC_INLINE Doubles widened(const Doubles& value) { return value; }

TFC_INLINE Doubles widened(const Floats& value) {
  Doubles out;
  // Not __builtin_convertvector, which gcc makes of conversions of two at a time.
#if TFC_VECTOR_BYTES == 64
  const __m512 v = (__m512)value.part[0];
  out.part[0] = (NativeDouble)_mm512_maskz_cvtps_pd((__mmask8)0xff, _mm512_castps512_ps256(v));
  out.part[1] =
      (NativeDouble)_mm512_maskz_cvtps_pd((__mmask8)0xff, _mm512_maskz_extractf32x8_ps((__mmask8)0xff, v, 1));
#else
  for (int i = 0; i < Floats::kParts; ++i) {
#if TFC_VECTOR_BYTES == 32
    const __m256 v = (__m256)value.part[i];
    out.part[2 * i] = (NativeDouble)_mm256_cvtps_pd(_mm256_castps256_ps128(v));
    out.part[2 * i + 1] = (NativeDouble)_mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
#elif defined(__SSE2__)
    const __m128 v = (__m128)value.part[i];
    out.part[2 * i] = (NativeDouble)_mm_cvtps_pd(v);
    out.part[2 * i + 1] = (NativeDouble)_mm_cvtps_pd(_mm_movehl_ps(v, v));
#else
    const NativeFloat v = value.part[i];
    out.part[2 * i] = __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1), NativeDouble);
    out.part[2 * i + 1] = __builtin_convertvector(__builtin_shufflevector(v, v, 2, 3), NativeDouble);
#endif
  }
#endif
  return out;
}

template <typename P>
TFC_INLINE void add_widened(Doubles& sum, const P& value) {
  add(sum, widened(value));
}

// Rounded to nearest.
TFC_INLINE Floats narrowed(const Doubles& value) {
  Floats out;
  for (int i = 0; i < Floats::kParts; ++i) {
    const HalfFloat low = __builtin_convertvector(value.part[2 * i], HalfFloat);
    const HalfFloat high = __builtin_convertvector(value.part[2 * i + 1], HalfFloat);
#if TFC_VECTOR_BYTES == 64
    out.part[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif TFC_VECTOR_BYTES == 32
    out.part[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
#else
    out.part[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3);
#endif
  }
  return out;
}

// ---- squares of vectors ------------------------------------------------------------------------
// a0 b0 a1 b1 ... of the lower and of the upper halves.

TFC_INLINE NativeFloat interleaved_low(NativeFloat a, NativeFloat b) {
#if TFC_VECTOR_BYTES == 64
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif TFC_VECTOR_BYTES == 32
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

TFC_INLINE NativeFloat interleaved_high(NativeFloat a, NativeFloat b) {
#if TFC_VECTOR_BYTES == 64
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif TFC_VECTOR_BYTES == 32
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

TFC_INLINE NativeDouble interleaved_low(NativeDouble a, NativeDouble b) {
#if TFC_VECTOR_BYTES == 64
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#elif TFC_VECTOR_BYTES == 32
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#else
  return __builtin_shufflevector(a, b, 0, 2);
#endif
}

TFC_INLINE NativeDouble interleaved_high(NativeDouble a, NativeDouble b) {
#if TFC_VECTOR_BYTES == 64
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif TFC_VECTOR_BYTES == 32
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  return __builtin_shufflevector(a, b, 1, 3);
#endif
}

// As many vectors as a vector has lanes, rows and columns exchanged. Each round interleaves vector i
// with vector i + half, which moves one bit of the row's number into the lane's.
template <typename Scalar, typename Native>
TFC_INLINE void transpose(Native* row) {
  constexpr int kSide = sizeof(Native) / sizeof(Scalar);
  for (int round = 1; round < kSide; round *= 2) {
    Native next[kSide];
    for (int i = 0; i < kSide / 2; ++i) {
      next[2 * i] = interleaved_low(row[i], row[i + kSide / 2]);
      next[2 * i + 1] = interleaved_high(row[i], row[i + kSide / 2]);
    }
    for (int i = 0; i < kSide; ++i) row[i] = next[i];
  }
}

// Fixed tree over the sixteen lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
TFC_INLINE double total(const Doubles& value) {
#if TFC_VECTOR_BYTES == 64
  const NativeDouble eight = value.part[0] + value.part[1];
  const auto four =
      __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  const auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
  return two[0] + two[1];
#endif
  alignas(64) double lane[kLanes];
  store<double, NativeDouble>(lane, value);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// The first `count` (< 16) elements, the other lanes zero.
template <typename T>
TFC_INLINE void copy_some(T* padded, const T* from, int64_t count) {
  std::memset(padded, 0, kLanes * sizeof(T));
  std::memcpy(padded, from, count * sizeof(T));
}

}  // namespace tfc::cpu::TFC_TARGET
