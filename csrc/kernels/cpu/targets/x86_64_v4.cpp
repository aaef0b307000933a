// The loops for the instruction set `x86_64_v4`; its compiler flags are in CMakeLists.txt.
#define TFC_TARGET x86_64_v4
#include "../kernels.inl"
