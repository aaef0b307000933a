// What a pass over a batch reads and computes, on any device.
#pragma once

namespace tfc {

enum class Scalar : int { kFloat32, kFloat64, kBFloat16, kFloat16 };
constexpr int kScalars = 4;

enum class Job : int {
  kCosine,       // feature: cosines
  kGates,        // feature: gates
  kFeature,      // feature: cosines and gates
  kPair,         // feature: cosines and gates; gradient: cosines
  kReluBackward  // as kPair, and grad_in = feature <= 0 ? 0 : gradient
};
constexpr int kJobs = 5;

}  // namespace tfc
