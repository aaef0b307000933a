// The launchers of gates as bits, with flat arguments for ctypes.
#include "gate_launchers.h"

using namespace tfc;
using namespace tfc::cuda;

extern "C" {

int kernels_pack_gates(const void* rows, int64_t scalar, int64_t stride, int64_t n, int64_t width,
                       int64_t* out) {
  return pack_gates(rows, static_cast<Scalar>(scalar), stride, n, width, out, nullptr);
}

int kernels_agreement_matrix(const PackedPairs* pairs, int64_t jaccard, float* out, int64_t row_stride,
                             int64_t column_stride) {
  return agreement_matrix(*pairs, jaccard != 0, out, row_stride, column_stride, nullptr);
}

int kernels_agreement_histogram(const PackedGroups* groups, int64_t multiprocessors, int64_t shared_bytes,
                                int64_t* counts) {
  return agreement_histogram(*groups, {static_cast<int>(multiprocessors), shared_bytes}, counts, nullptr);
}

// what: scalar, stride, n, width, update, window, multiprocessors.
int kernels_update_units(const void* rows, const int64_t* what, const UnitRecord* units) {
  return update_units(rows, static_cast<Scalar>(what[0]), what[1], what[2], what[3], *units, what[4], what[5],
                      {static_cast<int>(what[6]), 0}, nullptr);
}
}
