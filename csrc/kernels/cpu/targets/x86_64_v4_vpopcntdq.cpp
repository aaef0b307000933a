// Instruction set `x86_64_v4_vpopcntdq`: it counts ones, so its loops over gates are its own; all others
// are those of `x86_64_v4`. Its compiler flags are in CMakeLists.txt.
#define TFC_TARGET x86_64_v4_vpopcntdq
#include "../elements.h"
#include "../gates.h"
#include "../passes.h"

#include "../gates.inl"

namespace tfc::cpu::TFC_TARGET {
extern const GateKernels gate_kernels;
const GateKernels gate_kernels = kGateKernels;
}  // namespace tfc::cpu::TFC_TARGET
