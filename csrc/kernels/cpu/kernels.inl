// Builds one target's table. A target file defines TFC_TARGET (its namespace) and includes this.
#include "elements.h"
#include "passes.h"
#include "simd.h"

#include "column_pass.inl"
#include "gates.inl"
#include "row_norm.inl"
#include "row_pass.inl"
#include "unit_rows.inl"

#include "cosine_tile.inl"
#include "row_pairs.inl"
#include "unit_row_gradient.inl"

namespace tfc::cpu::TFC_TARGET {

#define TFC_JOB(job) \
  {row_pass<float, job>, row_pass<double, job>, row_pass<BFloat16, job>, row_pass<Float16, job>}

#define TFC_CENTRED(Out, packed)                                                                             \
  {centred_rows<float, Out, packed>, centred_rows<double, Out, packed>, centred_rows<BFloat16, Out, packed>, \
   centred_rows<Float16, Out, packed>}

#define TFC_STRING_OF(x) #x
#define TFC_STRING(x) TFC_STRING_OF(x)

extern const Kernels kernels;
const Kernels kernels = {
    TFC_STRING(TFC_TARGET),
    {TFC_JOB(Job::kCosine), TFC_JOB(Job::kGates), TFC_JOB(Job::kFeature), TFC_JOB(Job::kPair),
     TFC_JOB(Job::kReluBackward)},
    column_pass,
    {unit_scales<float>, unit_scales<double>, unit_scales<BFloat16>, unit_scales<Float16>},
    {unit_rows<float, float>, unit_rows<double, float>, unit_rows<BFloat16, float>,
     unit_rows<Float16, float>},
    {unit_rows<float, double>, unit_rows<double, double>, unit_rows<BFloat16, double>,
     unit_rows<Float16, double>},
    {unit_columns<float, float>, unit_columns<double, float>, unit_columns<BFloat16, float>,
     unit_columns<Float16, float>},
    {unit_columns<float, double>, unit_columns<double, double>, unit_columns<BFloat16, double>,
     unit_columns<Float16, double>},
    pair_rows,
    pair_columns,
    {scale_and_sum<float>, scale_and_sum<double>, scale_and_sum<BFloat16>, scale_and_sum<Float16>},
    TFC_CENTRED(float, false),
    TFC_CENTRED(float, true),
    TFC_CENTRED(double, true),
    place_cosines<float>,
    place_cosines<double>,
    scale_cosines,
    count_cosines<float>,
    count_cosines<double>,
    sum_squares<float>,
    sum_squares<double>,
    {pair_cosines<float>, pair_cosines<double>, pair_cosines<BFloat16>, pair_cosines<Float16>},
    {unit_row_gradient<float, float>, unit_row_gradient<double, float>, unit_row_gradient<BFloat16, float>,
     unit_row_gradient<Float16, float>},
    {unit_row_gradient<float, double>, unit_row_gradient<double, double>, unit_row_gradient<BFloat16, double>,
     unit_row_gradient<Float16, double>},
    kGateKernels,
};

}  // namespace tfc::cpu::TFC_TARGET
