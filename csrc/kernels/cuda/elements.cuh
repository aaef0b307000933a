// Elements of a row, 16 bytes at a time: a Piece holds them as they lie in memory, half precision packed,
// which is what keeps several rows in registers. Numbers are made of them where they are used.
//
// Rows that are not 16-byte aligned, and the last columns of a row, are read and written one by one.
#pragma once

#include "../jobs.h"
#include "device.cuh"

namespace tfc::cuda {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

__device__ __forceinline__ uint32_t& word(uint4& piece, int i) {
  return i == 0 ? piece.x : i == 1 ? piece.y : i == 2 ? piece.z : piece.w;
}
__device__ __forceinline__ uint32_t word(const uint4& piece, int i) {
  return i == 0 ? piece.x : i == 1 ? piece.y : i == 2 ? piece.z : piece.w;
}

__device__ __forceinline__ uint32_t bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ uint64_t bits_of(double value) {
  return static_cast<uint64_t>(__double_as_longlong(value));
}

// Sum: in what unit rows are added up. Bits: an element as it lies in memory; half precision is rounded to
// that by way of float, as torch does.
template <typename T>
struct Element;

template <>
struct Element<float> {
  using Sum = float;
  using Bits = uint32_t;
  static __device__ __forceinline__ float value(const uint4& piece, int i) {
    return __uint_as_float(word(piece, i));
  }
  static __device__ __forceinline__ void put(uint4& piece, int i, uint32_t bits) { word(piece, i) = bits; }
  static __device__ __forceinline__ uint32_t bits(const uint4& piece, int i) { return word(piece, i); }
  static __device__ __forceinline__ uint32_t rounded(double value) {
    return bits_of(static_cast<float>(value));
  }
};

struct TwoByteElement {
  using Sum = float;
  using Bits = uint16_t;
  static __device__ __forceinline__ void put(uint4& piece, int i, uint16_t bits) {
    uint32_t& both = word(piece, i / 2);
    both = i % 2 == 0 ? (both & 0xffff0000u) | bits : (both & 0xffffu) | static_cast<uint32_t>(bits) << 16;
  }
  static __device__ __forceinline__ uint16_t bits(const uint4& piece, int i) {
    return static_cast<uint16_t>(word(piece, i / 2) >> (i % 2 * 16));
  }
};
template <>
struct Element<Half> : TwoByteElement {
  static __device__ __forceinline__ float value(const uint4& piece, int i) {
    return half_bits_to_float(bits(piece, i));
  }
  static __device__ __forceinline__ uint16_t rounded(double value) {
    return float_to_half_bits(static_cast<float>(value));
  }
};
template <>
struct Element<BFloat16> : TwoByteElement {
  static __device__ __forceinline__ float value(const uint4& piece, int i) {
    return __uint_as_float(static_cast<uint32_t>(bits(piece, i)) << 16);
  }
  static __device__ __forceinline__ uint16_t rounded(double value) {
    const uint32_t wide = __float_as_uint(static_cast<float>(value));
    if ((wide & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((wide + 0x7fffu + (wide >> 16 & 1u)) >> 16);
  }
};

template <>
struct Element<double> {
  using Sum = double;
  using Bits = uint64_t;
  static __device__ __forceinline__ double value(const uint4& piece, int i) {
    return __hiloint2double(static_cast<int>(word(piece, 2 * i + 1)), static_cast<int>(word(piece, 2 * i)));
  }
  static __device__ __forceinline__ void put(uint4& piece, int i, uint64_t bits) {
    word(piece, 2 * i) = static_cast<uint32_t>(bits);
    word(piece, 2 * i + 1) = static_cast<uint32_t>(bits >> 32);
  }
  static __device__ __forceinline__ uint64_t bits(const uint4& piece, int i) {
    return static_cast<uint64_t>(word(piece, 2 * i + 1)) << 32 | word(piece, 2 * i);
  }
  static __device__ __forceinline__ uint64_t rounded(double value) { return bits_of(value); }
};

// Elements in 16 bytes.
template <typename T>
constexpr int kPiece = 16 / sizeof(T);

// How much of a row load_piece and store_piece have to know of: rows may be longer than 2^31.
template <typename T>
__device__ __forceinline__ int32_t pieces_left(int64_t elements) {
  return elements < kPiece<T> ? static_cast<int32_t>(elements) : kPiece<T>;
}

// Elements column ... of `row`; zeros past the row's end.
template <typename T>
__device__ __forceinline__ uint4 load_piece(const T* row, int32_t column, int32_t width, bool aligned) {
  if (aligned && column + kPiece<T> <= width) return load(reinterpret_cast<const uint4*>(row + column));
  using Bits = typename Element<T>::Bits;
  uint4 piece = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) {
    if (column + i >= width) continue;
    Element<T>::put(piece, i, load(reinterpret_cast<const Bits*>(row + column + i)));
  }
  return piece;
}

template <typename T>
__device__ __forceinline__ void store_piece(T* row, int32_t column, int32_t width, bool aligned,
                                            const uint4& piece) {
  if (aligned && column + kPiece<T> <= width) {
    store(reinterpret_cast<uint4*>(row + column), piece);
    return;
  }
  using Bits = typename Element<T>::Bits;
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) {
    if (column + i >= width) continue;
    store(reinterpret_cast<Bits*>(row + column + i), Element<T>::bits(piece, i));
  }
}

// feature <= 0 ? 0 : gradient, bit for bit; a NaN in the feature lets the gradient through.
template <typename T>
__device__ __forceinline__ uint4 gate_through(const uint4& feature, const uint4& gradient) {
  uint4 out = gradient;
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) {
    if (Element<T>::value(feature, i) <= 0) Element<T>::put(out, i, 0);
  }
  return out;
}

// 0xffff for each of the two elements that is greater than 0.
template <typename T>
__device__ __forceinline__ uint32_t open_halves(const uint4& piece, int w) {
  return (Element<T>::value(piece, 2 * w) > 0 ? 0xffffu : 0u) |
         (Element<T>::value(piece, 2 * w + 1) > 0 ? 0xffff0000u : 0u);
}
#if __CUDA_ARCH__ >= 900  // in one instruction
template <>
__device__ __forceinline__ uint32_t open_halves<Half>(const uint4& piece, int w) {
  uint32_t mask;
  asm("set.gt.u32.f16x2 %0, %1, %2;" : "=r"(mask) : "r"(word(piece, w)), "r"(0u));
  return mask;
}
template <>
__device__ __forceinline__ uint32_t open_halves<BFloat16>(const uint4& piece, int w) {
  uint32_t mask;
  asm("set.gt.u32.bf16x2 %0, %1, %2;" : "=r"(mask) : "r"(word(piece, w)), "r"(0u));
  return mask;
}
#else  // both halves at once: bit 15 of each tells of magnitude > 0, magnitude <= infinity, sign
template <>
__device__ __forceinline__ uint32_t open_halves<BFloat16>(const uint4& piece, int w) {
  const uint32_t both = word(piece, w);
  const uint32_t magnitude = both & 0x7fff7fffu;
  const uint32_t open = (magnitude + 0x7fff7fffu) & (0xff80ff80u - magnitude) & ~both & 0x80008000u;
  return (open >> 15) * 0xffffu;
}
#endif

// How often each element of a piece was open, up to 255 times; four to a word.
template <typename T>
struct GateCounts {
  static constexpr int kWords = (kPiece<T> + 3) / 4;
  uint32_t words[kWords];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] = 0;
  }
  __device__ __forceinline__ void count(const uint4& feature) {
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      if (Element<T>::value(feature, i) > 0) words[i / 4] += 1u << (i % 4 * 8);
    }
  }
  // Takes back what was counted.
  __device__ __forceinline__ void uncount(const uint4& feature) {
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      if (Element<T>::value(feature, i) > 0) words[i / 4] -= 1u << (i % 4 * 8);
    }
  }
  // Counts; gives the gradient behind the gates of a feature that has no NaN.
  __device__ __forceinline__ uint4 pass(const uint4& feature, const uint4& gradient) {
    uint4 out = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      const bool open = Element<T>::value(feature, i) > 0;
      if (open) words[i / 4] += 1u << (i % 4 * 8);
      Element<T>::put(out, i, open ? Element<T>::bits(gradient, i) : 0);
    }
    return out;
  }
  __device__ __forceinline__ int32_t of(int i) const {
    return static_cast<int32_t>(words[i / 4] >> (i % 4 * 8) & 255u);
  }
  // Four elements, one byte each.
  __device__ __forceinline__ uint32_t bytes(int w) const { return words[w]; }
};

// The same of two-byte elements, two to a word: a word is the sum of masks of 32 bits, each of which counts
// -1 in the halves of open elements, the lower half borrowing from the upper one.
template <typename T>
struct HalfGateCounts {
  static constexpr int kWords = kPiece<T> / 2;
  uint32_t words[kWords];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] = 0;
  }
  __device__ __forceinline__ void count(const uint4& feature) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] += open_halves<T>(feature, w);
  }
  __device__ __forceinline__ void uncount(const uint4& feature) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) words[w] -= open_halves<T>(feature, w);
  }
  __device__ __forceinline__ uint4 pass(const uint4& feature, const uint4& gradient) {
    uint4 out;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t open = open_halves<T>(feature, w);
      words[w] += open;
      word(out, w) = word(gradient, w) & open;
    }
    return out;
  }
  // Of a word's two elements, the first in the lower half.
  __device__ __forceinline__ uint32_t pair(int w) const {
    const uint32_t first = (0u - words[w]) & 0xffffu;
    const uint32_t second = (first - ((words[w] + first) >> 16)) & 0xffffu;
    return first | second << 16;
  }
  __device__ __forceinline__ int32_t of(int i) const {
    return static_cast<int32_t>(pair(i / 2) >> (i % 2 * 16) & 0xffffu);
  }
  __device__ __forceinline__ uint32_t bytes(int w) const {
    const uint32_t low = pair(2 * w), high = pair(2 * w + 1);
    return (low & 255u) | (low >> 8 & 0xff00u) | (high & 255u) << 16 | (high >> 8 & 0xff00u) << 16;
  }
};
template <>
struct GateCounts<Half> : HalfGateCounts<Half> {};
template <>
struct GateCounts<BFloat16> : HalfGateCounts<BFloat16> {};

// Whether every row begins at a multiple of 16 bytes, and less than 2^32 of them after the one before.
inline bool is_aligned(const void* rows, int64_t stride, int64_t element_bytes) {
  const int64_t bytes = stride * element_bytes;
  return reinterpret_cast<uintptr_t>(rows) % 16 == 0 && bytes % 16 == 0 && bytes >= 0 && bytes >> 32 == 0;
}

// launch.operator()<T>() with the type of the elements.
template <typename Launch>
cudaError_t with_element(Scalar scalar, const Launch& launch) {
  switch (scalar) {
    case Scalar::kFloat32:
      return launch.template operator()<float>();
    case Scalar::kFloat64:
      return launch.template operator()<double>();
    case Scalar::kBFloat16:
      return launch.template operator()<BFloat16>();
    default:
      return launch.template operator()<Half>();
  }
}

}  // namespace tfc::cuda
