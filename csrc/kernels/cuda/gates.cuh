// Which gates of a row are open, by the bits of its elements.
#pragma once

#include "elements.cuh"

namespace tfc::cuda {

template <typename T>
constexpr uint64_t kInfinity = 0x7ff0000000000000;  // double
template <>
inline constexpr uint64_t kInfinity<float> = 0x7f800000;
template <>
inline constexpr uint64_t kInfinity<BFloat16> = 0x7f80;
template <>
inline constexpr uint64_t kInfinity<Half> = 0x7c00;

// The bits of positive numbers are those from 1 to infinity: no comparison of floating-point numbers, which
// may take a denormal number for 0.
template <typename T>
__device__ __forceinline__ bool is_open(typename Element<T>::Bits bits) {
  using Bits = typename Element<T>::Bits;
  return static_cast<Bits>(bits - 1) < static_cast<Bits>(kInfinity<T>);
}

// Bit i is set where element i of the piece is open.
template <typename T>
__device__ __forceinline__ uint32_t open_bits(const uint4& piece) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) bits |= (is_open<T>(Element<T>::bits(piece, i)) ? 1u : 0u) << i;
  return bits;
}

// Elements column ... of an aligned row that has all of them; else zeros. Not load_piece: reads that take
// turns with a branch would not be under way at the same time.
template <typename T>
__device__ __forceinline__ uint4 load_whole_piece(const T* row, int64_t column, int64_t width) {
  uint4 piece = {0, 0, 0, 0};
  if (column + kPiece<T> <= width) piece = load(reinterpret_cast<const uint4*>(row + column));
  return piece;
}

// Elements column ... of a row, one by one; zeros past the row's end.
template <typename T>
__device__ __forceinline__ uint4 load_elements(const T* row, int64_t column, int64_t width) {
  const int64_t left = width - column;
  const int32_t inside = left < 0 ? 0 : left < kPiece<T> ? static_cast<int32_t>(left) : kPiece<T>;
  return load_piece<T>(row + column, 0, inside, /*aligned=*/false);
}

}  // namespace tfc::cuda
