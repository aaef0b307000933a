// The four element types, read into lanes that the loops compute in. Included once per target, see simd.h.
#pragma once

#include "simd.h"

namespace tfc::cpu::TFC_TARGET {

// Element<T>: Row is the lane type it computes in, Part one vector of it. read() loads sixteen elements,
// read_part as many as a Part has, one a single one. gate_through writes a part of `gradient` where the
// feature is not <= 0, else +0. That is bit for bit what ReLU's own backward writes: a NaN feature lets
// the gradient through.

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <typename T>
struct Element;

template <typename T>
TFC_INLINE typename Element<T>::Row read(const T* from) {
  using Row = typename Element<T>::Row;
  Row out;
  for (int i = 0; i < Row::kParts; ++i) out.part[i] = Element<T>::read_part(from + i * Row::kWidth);
  return out;
}

template <>
struct Element<float> {
  using Sum = float;
  using Row = Floats;
  using Part = NativeFloat;
  static TFC_INLINE Part read_part(const float* from) {
    Part out;
    get_vector(out, from);
    return out;
  }
  static TFC_INLINE float one(const float* from) { return *from; }
  static TFC_INLINE void gate_through(float* out, Part feature, const float*, Part loaded) {
#if TFC_VECTOR_BYTES == 64
    const __mmask16 passes = _mm512_cmp_ps_mask((__m512)feature, _mm512_setzero_ps(), _CMP_NLE_UQ);
    _mm512_storeu_ps(out, _mm512_maskz_mov_ps(passes, (__m512)loaded));
#else
    const NativeInt passes = ~(NativeInt)(feature <= Part{});
    put_vector(out, (Part)(passes & (NativeInt)loaded));
#endif
  }
};

template <>
struct Element<double> {
  using Sum = double;
  using Row = Doubles;
  using Part = NativeDouble;
  static TFC_INLINE Part read_part(const double* from) {
    Part out;
    get_vector(out, from);
    return out;
  }
  static TFC_INLINE double one(const double* from) { return *from; }
  static TFC_INLINE void gate_through(double* out, Part feature, const double*, Part loaded) {
    const NativeLong passes = ~(NativeLong)(feature <= Part{});
    put_vector(out, (Part)(passes & (NativeLong)loaded));
  }
};

TFC_INLINE void gate_bits(uint16_t* out, NativeFloat feature, const uint16_t* gradient) {
  HalfBits bits;
  get_vector(bits, gradient);
  const NativeInt passes = ~(NativeInt)(feature <= NativeFloat{});
#if TFC_VECTOR_BYTES == 32
  const __m256i mask = (__m256i)passes;
  bits &= (HalfBits)_mm_packs_epi32(_mm256_castsi256_si128(mask), _mm256_extracti128_si256(mask, 1));
#else
  bits &= __builtin_convertvector((NativeBits)passes, HalfBits);
#endif
  put_vector(out, bits);
}

template <>
struct Element<BFloat16> {
  using Sum = float;
  using Row = Floats;
  using Part = NativeFloat;
  static TFC_INLINE Part read_part(const BFloat16* from) {
#if TFC_VECTOR_BYTES == 32
    return (Part)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)), 16);
#else
    HalfBits bits;
    get_vector(bits, from);
    return (Part)(__builtin_convertvector(bits, NativeBits) << 16);
#endif
  }
  static TFC_INLINE float one(const BFloat16* from) {
    const uint32_t bits = (uint32_t)from->bits << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static TFC_INLINE void gate_through(BFloat16* out, Part feature, const BFloat16* gradient, Part) {
    gate_bits(&out->bits, feature, &gradient->bits);
  }
};

// Integer arithmetic for all but subnormal halves. Those become 2^-14 + themselves, whence 2^-14 is
// taken away: no subnormal float appears, which the processor may be set to take for zero.
TFC_INLINE float half_to_float(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits = magnitude << 13;
  if (magnitude >= 0x7c00u) {
    bits |= 0x7f800000u;
  } else if (magnitude >= 0x0400u) {
    bits += 0x38000000u;
  } else {
    bits |= 0x38800000u;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    value -= 0x1p-14f;
    std::memcpy(&bits, &value, sizeof(value));
  }
  bits |= (uint32_t)(half & 0x8000u) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <>
struct Element<Float16> {
  using Sum = float;
  using Row = Floats;
  using Part = NativeFloat;
  static TFC_INLINE Part read_part(const Float16* from) {
#if TFC_VECTOR_BYTES == 64
    return (Part)_mm512_maskz_cvtph_ps((__mmask16)0xffff, _mm256_loadu_si256((const __m256i*)from));
#elif TFC_VECTOR_BYTES == 32 && defined(__F16C__)
    return (Part)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
    Part out;
    for (int i = 0; i < Row::kWidth; ++i) out[i] = half_to_float(from[i].bits);
    return out;
#endif
  }
  static TFC_INLINE float one(const Float16* from) { return half_to_float(from->bits); }
  static TFC_INLINE void gate_through(Float16* out, Part feature, const Float16* gradient, Part) {
    gate_bits(&out->bits, feature, &gradient->bits);
  }
};

}  // namespace tfc::cpu::TFC_TARGET
