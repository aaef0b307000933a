// For the emulated extension: its memory is torch's, which no test has registered.
#include "cuda_emulation.h"

namespace {
[[maybe_unused]] const bool unwatched = (tfc::emulation::watch_memory(false), true);
}
