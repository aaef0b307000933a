// Gates as bits: 32 values become one half of a word.
//
// A warp makes 32 half words, whatever rows they are in, so that narrow rows keep all lanes busy, too.
// Aligned rows are read 16 bytes at a time: a lane has the bits of 2, 4 or 8 neighbours in each of 16, 8 or 4
// pieces, and as many lanes share a half word. They exchange until each holds one that is whole: a lane keeps
// half as many with each exchange, so 8 pieces cost 7 shuffles. Other rows are read element by element, 32
// neighbours at a time, and a ballot is the half word.
//
// Traffic: reads n x width elements once, writes 8 bytes per 64 units of a row. One launch.
#include "gate_launchers.h"
#include "gates.cuh"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <typename T>
struct PackArguments {
  const T* rows;
  int64_t stride, width;
  int64_t all;          // half words of all rows
  uint32_t half_words;  // of a row; even
  bool aligned;
  uint32_t* out;
};

// Where a half word lies: row and first column.
template <typename T>
struct Place {
  const T* row;
  int64_t column;
};

// The 32 half words of a warp.
template <typename T>
class Stretch {
 public:
  __device__ __forceinline__ Stretch(const PackArguments<T>& a, int64_t first)
      : a_(a),
        row_(first / a.half_words),
        word_(static_cast<uint32_t>(first - row_ * a.half_words)),
        count_(a.all - first < 32 ? static_cast<int>(a.all - first) : 32) {}

  __device__ __forceinline__ Place<T> operator()(int i) const {
    if (i >= count_) return {a_.rows, a_.width};
    const uint32_t word = word_ + static_cast<uint32_t>(i);
    const uint32_t rows = word / a_.half_words;
    return {a_.rows + (row_ + rows) * a_.stride, int64_t{word - rows * a_.half_words} * 32};
  }
  __device__ __forceinline__ int count() const { return count_; }

 private:
  const PackArguments<T>& a_;
  int64_t row_;
  uint32_t word_;
  int count_;
};

// Lane l gets, in bits[0], the union of what kCount neighbouring lanes have in bits[l % kCount]. Each
// exchange halves the number of values that a lane keeps.
template <int kCount>
__device__ __forceinline__ void exchange(uint32_t* bits, int lane) {
  if constexpr (kCount > 1) {
    constexpr int kHalf = kCount / 2;
    const bool upper = (lane & kHalf) != 0;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      const uint32_t kept = upper ? bits[k + kHalf] : bits[k];
      const uint32_t given = upper ? bits[k] : bits[k + kHalf];
      bits[k] = kept | __shfl_xor_sync(kFullWarp, given, kHalf);
    }
    exchange<kHalf>(bits, lane);
  }
}

template <typename T>
__device__ __forceinline__ void pack_pieces(const PackArguments<T>& a, const Stretch<T>& stretch,
                                            uint32_t* out) {
  constexpr int kPieces = 32 / kPiece<T>;  // per lane; and lanes that share a half word
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int of_word = lane % kPieces;
  uint4 pieces[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const Place<T> place = stretch(k * kPiece<T> + lane / kPieces);
    pieces[k] = load_whole_piece(place.row, place.column + of_word * kPiece<T>, a.width);
  }
  if (a.width % kPiece<T> != 0) {
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      const Place<T> place = stretch(k * kPiece<T> + lane / kPieces);
      const int64_t column = place.column + of_word * kPiece<T>;
      if (column < a.width && column + kPiece<T> > a.width) {
        pieces[k] = load_elements(place.row, column, a.width);
      }
    }
  }
  uint32_t bits[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    bits[k] = open_bits<T>(pieces[k]) << of_word * kPiece<T>;
  }
  exchange<kPieces>(bits, lane);
  const int mine = of_word * kPiece<T> + lane / kPieces;
  if (mine < stretch.count()) store(out + mine, bits[0]);
}

template <typename T>
__device__ __forceinline__ void pack_elements(const PackArguments<T>& a, const Stretch<T>& stretch,
                                              uint32_t* out) {
  using Bits = typename Element<T>::Bits;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t mine = 0;
#pragma unroll 8
  for (int k = 0; k < 32; ++k) {
    const Place<T> place = stretch(k);
    const int64_t column = place.column + lane;
    const bool open = column < a.width && is_open<T>(load(reinterpret_cast<const Bits*>(place.row + column)));
    const uint32_t word = __ballot_sync(kFullWarp, open);
    if (lane == k) mine = word;
  }
  if (lane < stretch.count()) store(out + lane, mine);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) pack_gates_kernel(const PackArguments<T> a) {
  const int64_t first = (blockIdx.x * int64_t{kWarps} + threadIdx.x / 32) * 32;
  if (first >= a.all) return;  // whole warps
  const Stretch<T> stretch(a, first);
  if (a.aligned) {
    pack_pieces(a, stretch, a.out + first);
  } else {
    pack_elements(a, stretch, a.out + first);
  }
}

template <typename T>
cudaError_t launch(const void* rows, int64_t stride, int64_t n, int64_t width, int64_t* out,
                   cudaStream_t stream) {
  constexpr int64_t kMostWidth = int64_t{1} << 36;  // half words of a row in 32 bits
  const int64_t half_words = (width + 63) / 64 * 2;
  const int64_t all = n * half_words;
  const int64_t blocks = (all + kThreads - 1) / kThreads;
  if (width > kMostWidth || blocks > INT32_MAX) return cudaErrorInvalidValue;
  if (all == 0) return cudaSuccess;
  const PackArguments<T> a{static_cast<const T*>(rows),
                           stride,
                           width,
                           all,
                           static_cast<uint32_t>(half_words),
                           is_aligned(rows, stride, sizeof(T)),
                           reinterpret_cast<uint32_t*>(out)};  // the lower half of a word comes first
  const dim3 grid{static_cast<unsigned>(blocks), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(pack_gates_kernel<T>, grid, block, 0, stream, a);
}

}  // namespace

cudaError_t pack_gates(const void* rows, Scalar scalar, int64_t stride, int64_t n, int64_t width,
                       int64_t* out, cudaStream_t stream) {
  return with_element(scalar, [&]<typename T>() { return launch<T>(rows, stride, n, width, out, stream); });
}

}  // namespace tfc::cuda
