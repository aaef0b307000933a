// The loops for the instruction set `baseline`; its compiler flags are in CMakeLists.txt.
#define TFC_TARGET baseline
#include "../kernels.inl"
