// Sums over the threads of a block, in an order that depends on the number of threads alone.
#pragma once

#include "device.cuh"

namespace tfc::cuda {

// Every lane gets the sum.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) value += __shfl_xor_sync(kFullWarp, value, flip);
  return value;
}

// Every thread gets the sum. `slots`: shared, one per warp; not inlined, since it runs rarely.
template <typename T>
__device__ __noinline__ T block_sum(T value, T* slots) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  value = warp_sum(value);
  __syncthreads();  // the slots may still be read from the sum before
  if (lane == 0) slots[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? slots[lane] : T{});
}

// The lane below kValues that has value v at the end of block_sums: the bits of v in reverse.
template <int kValues>
__device__ __forceinline__ constexpr int lane_of_value(int v) {
  int lane = 0;
  for (int bit = 1, from = kValues / 2; from > 0; bit *= 2, from /= 2) lane |= (v & from) != 0 ? bit : 0;
  return lane;
}

// Sums of kValues numbers at once over the block: lane l gets that of the value v with lane_of_value(v) equal
// to l % kValues. A warp halves the number of values that a lane keeps with each exchange, so that 8 values
// cost 9 shuffles, not 40. `slots`: shared, [2][warps][kValues]; `turn` alternates from call to call, so that
// one barrier will do: who writes the slots of this turn has passed the barrier that ended the reading of the
// turn before last.
template <int kValues>
__device__ __forceinline__ float block_sums(float* values, float* slots, int turn) {
  static_assert(kValues == 1 || kValues == 2 || kValues == 4 || kValues == 8);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  float* slot = slots + turn * warps * kValues;
  // After the exchange with flip, lanes whose bit `flip` is set hold the upper half of the values.
  int flip = 1;
#pragma unroll
  for (int half = kValues / 2; half > 0; half /= 2, flip *= 2) {
    const bool upper = (lane & flip) != 0;
#pragma unroll
    for (int v = 0; v < half; ++v) {
      const float kept = upper ? values[v + half] : values[v];
      const float given = upper ? values[v] : values[v + half];
      values[v] = kept + __shfl_xor_sync(kFullWarp, given, flip);
    }
  }
  float mine = values[0];
#pragma unroll
  for (; flip < 32; flip *= 2) mine += __shfl_xor_sync(kFullWarp, mine, flip);
  if (lane < kValues) slot[warp * kValues + lane] = mine;
  __syncthreads();
  // Lane l adds up slot l % kValues of every (32 / kValues)th warp.
  mine = 0;
  for (int w = lane / kValues; w < warps; w += 32 / kValues) mine += slot[w * kValues + lane % kValues];
#pragma unroll
  for (int step = kValues; step < 32; step *= 2) mine += __shfl_xor_sync(kFullWarp, mine, step);
  return mine;
}

}  // namespace tfc::cuda
