// What a pass over a batch reads and computes, on any device.
#pragma once

#include <cstdint>

namespace tfc {

enum class Scalar : int { kFloat32, kFloat64, kBFloat16, kFloat16 };
constexpr int kScalars = 4;

constexpr int64_t bytes_of(Scalar scalar) {
  return scalar == Scalar::kFloat64 ? 8 : scalar == Scalar::kFloat32 ? 4 : 2;
}

enum class Job : int {
  kCosine,       // feature: cosines
  kGates,        // feature: gates
  kFeature,      // feature: cosines and gates
  kPair,         // feature: cosines and gates; gradient: cosines
  kReluBackward  // as kPair, and grad_in = feature <= 0 ? 0 : gradient
};
constexpr int kJobs = 5;

}  // namespace tfc
