// In how many units the gates of two rows differ: 64 x 64 pairs of rows per block, 4 x 4 per thread.
//
// Words of the rows go through shared memory, 16 at a time (1024 units), while those of the next stage are on
// their way in registers. What counts is the ones of the exclusive or of two words. Counting them is the slow
// part (a multiprocessor counts in 16 lanes of 32 bits per cycle, but combines bits in 64 or more), so two
// halves of words are first added up bit by bit to what is left over, and only the carries are counted: half
// as many.
//
// Traffic: a tile reads its rows once, 16 bytes per 64 units and row pair of sides, so that a word that is
// read is compared with 64 others. They are read 8 bytes at a time, since rows of an odd number of words are
// not aligned any better; next to the comparing it takes no time.
#pragma once

#include "device.cuh"

namespace tfc::cuda {

constexpr int kTileRows = 64;
constexpr int kTileThreads = 256;
constexpr int kTileWarps = kTileThreads / 32;
constexpr int kPerThread = 4;                                         // rows of either side
constexpr int kSpread = kTileRows / kPerThread;                       // rows of a thread lie so far apart
constexpr int kStageWords = 16;                                       // of 64 units
constexpr int kQuads = kStageWords / 2;                               // of 16 bytes
constexpr int kRowQuads = kQuads + 1;                                 // 8 rows begin in 8 different banks
constexpr int kFetched = 2 * kTileRows * kStageWords / kTileThreads;  // words per thread and stage
constexpr int kAgreementPitch = kTileRows + 1;

// Rows of both sides. Refers to memory that others own.
struct GateRows {
  const int64_t* side[2];
  int64_t stride[2], count[2];
  const int64_t* order;  // [count] row at each position, of both sides; null: rows as they lie
  int64_t units;
};

// First position of the rows of a tile, on the left and on the right.
struct GateTile {
  int64_t first[2];
};

// How the pairs are cut. `triangle`: only tiles on and above the diagonal. Line k of them has one more tile
// than the last line but k has tiles fewer than all, so the two make one line of the grid.
struct GateTileGrid {
  int64_t down, across;
  bool triangle;

  int64_t count() const { return triangle ? (down + 1) / 2 * (down + 1) : down * across; }
  // False: the middle line has no other one.
  __device__ __forceinline__ bool find(int64_t index, GateTile& tile) const {
    const int64_t line = triangle ? down + 1 : across;
    int64_t row = index / line;
    int64_t column = index - row * line;
    if (triangle) {
      const int64_t tiles = down - row;
      const int64_t other = down - 1 - row;
      if (column < tiles) {
        column += row;
      } else if (other == row) {
        return false;
      } else {
        column += other - tiles;
        row = other;
      }
    }
    tile.first[0] = row * kTileRows;
    tile.first[1] = column * kTileRows;
    return true;
  }
};

inline GateTileGrid make_gate_grid(int64_t rows, int64_t columns, bool triangle) {
  return {(rows + kTileRows - 1) / kTileRows, (columns + kTileRows - 1) / kTileRows, triangle};
}

// Shared memory of a block. Rows: first those of the left, then those of the right.
struct GateTileMemory {
  union {
    uint4 quads[2 * kTileRows][kRowQuads];
    float agreement[kTileRows][kAgreementPitch];
  };
  int64_t begin[2 * kTileRows];  // of the row, in words from the first of its side; -1: there is none
  int32_t open[2 * kTileRows];   // units, if they are counted
};

// Ones of the exclusive or of many words.
struct Ones {
  uint32_t left_over = 0;  // bits that were added up to an odd number
  int32_t carried = 0;     // pairs of ones

  __device__ __forceinline__ void add(uint32_t a, uint32_t b) {
    carried += __popc((a & b) | (left_over & (a ^ b)));
    left_over ^= a ^ b;
  }
  __device__ __forceinline__ void add(const uint4& a, const uint4& b) {
    add(a.x ^ b.x, a.y ^ b.y);
    add(a.z ^ b.z, a.w ^ b.w);
  }
  __device__ __forceinline__ int32_t total() const { return 2 * carried + __popc(left_over); }
};

// What a thread has of a tile: pairs [i][j] of rows row_of(i) on the left and column_of(j) on the right. The
// rows of neighbouring threads are neighbours, so that their reads meet in no bank.
using OnesOfThread = Ones[kPerThread][kPerThread];
__device__ __forceinline__ int row_of(int i) { return static_cast<int>(threadIdx.x) / kSpread + i * kSpread; }
__device__ __forceinline__ int column_of(int j) {
  return static_cast<int>(threadIdx.x) % kSpread + j * kSpread;
}

// The words of one stage that a thread brings: word threadIdx.x % 16 of every 16th row.
struct Fetched {
  uint64_t words[kFetched];

  __device__ __forceinline__ void get(const GateRows& rows, const GateTileMemory& memory, int64_t stage) {
    const int64_t word = stage + threadIdx.x % kStageWords;
    const int64_t units = rows.units - word * 64;  // from this word on
    const uint64_t mask = units >= 64 ? ~uint64_t{0} : (uint64_t{1} << (units > 0 ? units : 0)) - 1;
#pragma unroll
    for (int k = 0; k < kFetched; ++k) {
      const int64_t begin = memory.begin[row(k)];
      const int64_t* side = k < kFetched / 2 ? rows.side[0] : rows.side[1];
      words[k] = 0;
      if (begin >= 0 && units > 0) words[k] = static_cast<uint64_t>(load(side + begin + word)) & mask;
    }
  }
  __device__ __forceinline__ void put(GateTileMemory& memory) const {
    const int half = static_cast<int>(threadIdx.x) % kStageWords;
#pragma unroll
    for (int k = 0; k < kFetched; ++k) {
      uint4& quad = memory.quads[row(k)][half / 2];
      const auto low = static_cast<uint32_t>(words[k]);
      const auto high = static_cast<uint32_t>(words[k] >> 32);
      if (half % 2 == 0) {
        quad.x = low;
        quad.y = high;
      } else {
        quad.z = low;
        quad.w = high;
      }
    }
  }
  static __device__ __forceinline__ int row(int k) {
    return static_cast<int>(threadIdx.x) / kStageWords + k * (kTileThreads / kStageWords);
  }
};

__device__ __forceinline__ void compare_stage(const GateTileMemory& memory, int quads, OnesOfThread& ones) {
#pragma unroll 2
  for (int q = 0; q < quads; ++q) {
    uint4 left[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) left[i] = memory.quads[row_of(i)][q];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const uint4 right = memory.quads[kTileRows + column_of(j)][q];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) ones[i][j].add(left[i], right);
    }
  }
}

// Counts into `ones`; kCountOpen: and the open units of each row into memory.open, to be read after a
// barrier. The memory of the tile before must not be in use any more.
template <bool kCountOpen>
__device__ __forceinline__ void compare_tile(const GateRows& rows, const GateTile& tile,
                                             GateTileMemory& memory, OnesOfThread& ones) {
  if (threadIdx.x < 2 * kTileRows) {
    const bool right = threadIdx.x >= kTileRows;
    const int64_t position = (right ? tile.first[1] : tile.first[0]) + threadIdx.x % kTileRows;
    int64_t begin = -1;
    if (position < (right ? rows.count[1] : rows.count[0])) {
      const int64_t row = rows.order == nullptr ? position : load(rows.order + position);
      begin = row * (right ? rows.stride[1] : rows.stride[0]);
    }
    memory.begin[threadIdx.x] = begin;
  }
  __syncthreads();
  int32_t open[kFetched] = {};
  Fetched fetched;
  fetched.get(rows, memory, 0);
  const int64_t words = (rows.units + 63) / 64;
  for (int64_t stage = 0; stage < words; stage += kStageWords) {
    if (stage > 0) __syncthreads();  // all have compared the stage before
    fetched.put(memory);
    if constexpr (kCountOpen) {
#pragma unroll
      for (int k = 0; k < kFetched; ++k) open[k] += __popcll(fetched.words[k]);
    }
    __syncthreads();
    if (stage + kStageWords < words) fetched.get(rows, memory, stage + kStageWords);
    const int64_t left = words - stage < kStageWords ? words - stage : kStageWords;
    compare_stage(memory, static_cast<int>(left + 1) / 2, ones);
  }
  if constexpr (kCountOpen) {
#pragma unroll
    for (int k = 0; k < kFetched; ++k) {
#pragma unroll
      for (int flip = kStageWords / 2; flip > 0; flip /= 2) {
        open[k] += __shfl_xor_sync(kFullWarp, open[k], flip);
      }
      if (threadIdx.x % kStageWords == 0) memory.open[Fetched::row(k)] = open[k];
    }
  }
}

}  // namespace tfc::cuda
