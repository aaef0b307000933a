// What cosine_histogram takes, on any device.
#pragma once

#include <cstdint>

namespace tfc::ops {

// Throws unless there can be that many.
void check_bins(int64_t bins);

}  // namespace tfc::ops
