// What the tests call through ctypes: class sums, what follows from them, and cosines of pairs of rows.
#include "class_sums.h"
#include "row_pairs.h"

using namespace tfc;
using namespace tfc::cuda;

namespace {

struct Summary {
  int64_t workspace_bytes, chunks, chunk_rows, tiles, threads;
};

// shape: scalar, rows, width, multiprocessors.
ClassSumsPlan plan_of(const int64_t* shape) {
  return plan_class_sums(static_cast<Scalar>(shape[0]), shape[1], shape[2],
                         {static_cast<int>(shape[3]), 100 * 1024});
}

}  // namespace

extern "C" {

void kernels_class_sums_plan(const int64_t* shape, Summary* out) {
  const ClassSumsPlan plan = plan_of(shape);
  *out = {plan.workspace_bytes, plan.chunks, plan.chunk_rows, plan.tiles, plan.threads};
}

int kernels_add_class_sums(const int64_t* shape, const void* rows, int64_t stride, const Groups* groups,
                           void* workspace, const ClassSums* to) {
  return add_class_sums(rows, stride, *groups, plan_of(shape), workspace, *to, nullptr);
}

int64_t kernels_class_products_doubles(int64_t width) { return class_products_doubles(width); }

int kernels_mean_cosine_of_sums(const ClassSide* side, int64_t width, int64_t labelled, double* workspace,
                                double* out) {
  return write_mean_cosine_of_sums(*side, width, labelled != 0, workspace, out, nullptr);
}

int kernels_cross_cosine(const ClassSide* x, const ClassSide* y, int64_t width, int64_t labelled,
                         double* workspace, double* out) {
  return write_cross_cosine(*x, *y, width, labelled != 0, workspace, out, nullptr);
}

int kernels_sums_to_weights(double* sums, const int64_t* counts, int64_t classes, int64_t width,
                            int64_t labelled, const double* grad, double* factors) {
  return sums_to_weights(sums, counts, classes, width, labelled != 0, grad, factors, nullptr);
}

int kernels_pair_cosines(const RowPairs* pairs, uint8_t* states, double* cosines, double* summary) {
  return pair_cosines(*pairs, states, cosines, summary, nullptr);
}
}
