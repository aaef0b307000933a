// Which instruction set's loops run: chosen once at start-up, changeable for tests.
#pragma once

#include "passes.h"

namespace tfc::cpu {

// The loops in use. The environment variable TFC_FAST_INSTRUCTION_SET names a set that this
// processor has; an unknown or unavailable name is an error (std::invalid_argument).
const Kernels& kernels();

// Sets compiled in that this processor can run, best last; ends with nullptr.
const Kernels* const* available();

// Whether the processor has all of x86-64-v4.
bool has_avx512();

// Whether the processor multiplies pairs of bfloat16 in one instruction.
bool multiplies_bfloat16();

// Use the set of that name from now on; throws std::invalid_argument listing the available ones.
void use(const char* name);

}  // namespace tfc::cpu
