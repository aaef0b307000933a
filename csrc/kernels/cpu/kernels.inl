// Builds one target's table. A target file defines TFC_TARGET (its namespace) and includes this.
#include "passes.h"
#include "simd.h"

#include "column_pass.inl"
#include "row_pass.inl"

namespace tfc::cpu::TFC_TARGET {

#define TFC_JOB(job) \
  {row_pass<float, job>, row_pass<double, job>, row_pass<BFloat16, job>, row_pass<Float16, job>}

#define TFC_STRING_OF(x) #x
#define TFC_STRING(x) TFC_STRING_OF(x)

extern const Kernels kernels;
const Kernels kernels = {
    TFC_STRING(TFC_TARGET),
    {TFC_JOB(Job::kCosine), TFC_JOB(Job::kGates), TFC_JOB(Job::kFeature), TFC_JOB(Job::kPair),
     TFC_JOB(Job::kReluBackward)},
    column_pass,
};

}  // namespace tfc::cpu::TFC_TARGET
