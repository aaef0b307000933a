// What the gate ops of every device share: their checks, and memory for their results.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace tfc::ops {

// Of pack_gates: [n, words] int64 for features [n, ...], with no content.
at::Tensor empty_packed_gates(const at::Tensor& features);

// Throws unless the state of update_units fits the features.
void check_units(const at::Tensor& features, const at::Tensor& open_rows, const at::Tensor& last_active,
                 const at::Tensor& revived);

// Of agreement_matrix: [rows of x, rows of y, or of x] float, with no content.
at::Tensor empty_agreement(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units);

// Throws unless `out` can hold that; its memory is not looked at.
void check_agreement_output(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                            const at::Tensor& out);
// Throws unless `out` is apart in memory from x and y, and from itself.
void check_agreement_memory(const at::Tensor& x, const std::optional<at::Tensor>& y, const at::Tensor& out);

}  // namespace tfc::ops
