// Cuts a batch up and sends its rows through the passes. No kernels here.
#include "partials.cuh"
#include "row_pass.cuh"

namespace tfc::cuda {
namespace {

// Threads that a multiprocessor has registers for, at 128 each; more blocks would wait for their turn, and
// only leave more partial rows.
constexpr int64_t kResidentThreads = 512;
constexpr int64_t kLeastChunkRows = 4;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t row_pass_bytes(const Plan& plan) {
  const int elements = static_cast<int>(16 / plan.scalar_bytes());
  const int cells =
      plan.labelled ? inner_cells(plan.tensors(), plan.pieces, elements, plan.cosines(), plan.counts()) : 0;
  const int rows = plan.tensors() * plan.rows_at_once;
  return row_pass_shared_bytes(plan.threads, rows * plan.pieces, rows, cells);
}

struct Shape {
  int pieces, rows_at_once, threads;
};

// Sets the shape of the row pass; false: a block cannot hold so long a row.
bool fits(Plan& plan, const Shape& shape, const Device& device) {
  const int64_t columns = shape.pieces * (16 / plan.scalar_bytes());
  const int64_t threads = std::max<int64_t>(32, divide_up(divide_up(plan.width, columns), 32) * 32);
  if (threads > shape.threads) return false;
  plan.pieces = shape.pieces;
  plan.rows_at_once = shape.rows_at_once;
  plan.threads = static_cast<int>(threads);
  plan.shared_bytes = row_pass_bytes(plan);
  return plan.shared_bytes <= device.shared_bytes;
}

bool find_fused_shape(Plan& plan, const Device& device) {
  if (!plan.cosines() || plan.scalar == Scalar::kFloat64) return false;
  const bool full = plan.scalar == Scalar::kFloat32;
  if (fits(plan, {1, 4, 512}, device)) return true;
  if (full && fits(plan, {2, 2, 512}, device)) return true;
  // 1024 threads have 64 registers each, too few for two tensors.
  if (plan.tensors() == 2) return false;
  return fits(plan, {full ? 2 : 1, 1, 1024}, device);
}

}  // namespace

Plan make_plan(Job job, Scalar scalar, int64_t rows, int64_t width, bool labelled, const Device& device) {
  Plan plan{};
  plan.job = job;
  plan.scalar = scalar;
  plan.rows = rows;
  plan.width = width;
  plan.labelled = labelled;
  plan.tiles = 1;
  plan.fused = find_fused_shape(plan, device);
  if (!plan.fused) {
    constexpr int64_t kThreads = 256;
    const int64_t pieces = divide_up(width, 16 / plan.scalar_bytes());
    plan.pieces = 1;
    plan.rows_at_once = plan.scalar == Scalar::kFloat64 ? 2 : 4;
    plan.threads = static_cast<int>(std::clamp<int64_t>(divide_up(pieces, 32) * 32, 32, kThreads));
    while ((plan.shared_bytes = row_pass_bytes(plan)) > device.shared_bytes) {
      plan.threads = plan.threads / 64 * 32;
    }
    plan.tiles = std::max<int64_t>(1, divide_up(pieces, plan.threads));
  }
  const int64_t resident =
      std::clamp<int64_t>(kResidentThreads / plan.threads, 1, 8) * device.multiprocessors;
  const int64_t at_once = std::max<int64_t>(1, (plan.fused ? resident : 2 * resident) / plan.tiles);
  // With what it may grow by, a chunk has at most 32 * rows_at_once rows.
  const int64_t most = int64_t{32} * plan.rows_at_once * kSmallClass / (kSmallClass + 1);
  // As many as run at a time, or several times as many, so that all end together.
  const int64_t times = divide_up(rows, at_once * most);
  const int64_t wanted = divide_up(rows, at_once * std::max<int64_t>(1, times));
  plan.chunk_rows = std::clamp(divide_up(wanted, plan.rows_at_once) * plan.rows_at_once, kLeastChunkRows,
                               most / plan.rows_at_once * plan.rows_at_once);
  plan.chunks = std::max<int64_t>(1, divide_up(rows, plan.chunk_rows));
  plan.pitch = divide_up(width, 8) * 8;

  int64_t bytes = 0;
  const auto reserve = [&](int64_t size) {
    const int64_t at = bytes;
    bytes += divide_up(size, 128) * 128;
    return at;
  };
  const int64_t partial_rows = plan.chunks * kSlots * plan.pitch;
  for (int t = 0; t < 2; ++t) {
    const bool used = plan.cosines() && t < plan.tensors();
    const int64_t scale_bytes =
        scalar == Scalar::kFloat64 ? sizeof(RowScale<double>) : sizeof(RowScale<float>);
    plan.scales[t] = reserve(used && !plan.fused ? rows * scale_bytes : 0);
    plan.sums[t] = reserve(used ? partial_rows * plan.sum_bytes() : 0);
  }
  plan.gates = reserve(plan.counts() ? partial_rows : 0);
  plan.tile_totals = reserve(plan.chunks * plan.tiles * static_cast<int64_t>(sizeof(TileTotals)));
  plan.chunk_totals = reserve(plan.chunks * static_cast<int64_t>(sizeof(ChunkTotals)));
  plan.column_totals =
      reserve(kQuantities * plan.column_blocks() * static_cast<int64_t>(sizeof(ColumnTotals)));
  plan.blocks_ended = reserve(sizeof(unsigned));
  plan.admission = reserve(sizeof(Admission));
  plan.workspace_bytes = bytes;
  return plan;
}

namespace {

constexpr int64_t kMostRows = (int64_t{1} << 31) - (1 << 16);  // positions are 32 bits in the row pass

}  // namespace

cudaError_t walk_rows(const Batch& batch, const OpenBatch& open, cudaStream_t stream) {
  const Plan& plan = open.plan;
  if (plan.rows > kMostRows || plan.width > kMostRows) return cudaErrorInvalidValue;
  const int64_t bytes = plan.scalar_bytes();
  bool aligned = is_aligned(batch.feature, batch.feature_stride, bytes);
  if (plan.tensors() == 2) aligned = aligned && is_aligned(batch.gradient, batch.gradient_stride, bytes);
  if (plan.job == Job::kReluBackward) {
    aligned = aligned && is_aligned(batch.grad_in, batch.grad_in_stride, bytes);
  }
  if (plan.cosines() && !plan.fused) {
    const cudaError_t error = launch_row_scales(batch, open, aligned, stream);
    if (error != cudaSuccess) return error;
  }
  return launch_row_pass(batch, open, aligned, stream);
}

}  // namespace tfc::cuda
