#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fused_gemm.h"

namespace tfc::cpu {

namespace baseline {
extern const Kernels kernels;
}
#if defined(TFC_X86_64)
namespace x86_64_v3 {
extern const Kernels kernels;
void fused_gemm(int64_t m, int64_t n, int64_t k, int64_t run, bool transposed, const float* a, int64_t lda,
                const float* b, int64_t ldb, bool add, float* c, int64_t ldc);
}  // namespace x86_64_v3
namespace x86_64_v4 {
extern const Kernels kernels;
}
namespace x86_64_v4_vpopcntdq {
extern const GateKernels gate_kernels;
}
#endif

const Kernels* const* available() {
  static const Kernels* list[5] = {};
  static const bool filled = [] {
    int count = 0;
    list[count++] = &baseline::kernels;
#if defined(TFC_X86_64)
    __builtin_cpu_init();
    // The x86-64-v3 files are compiled with F16C, which the level contains.
    if (__builtin_cpu_supports("x86-64-v3")) list[count++] = &x86_64_v3::kernels;
    if (__builtin_cpu_supports("x86-64-v4")) {
      list[count++] = &x86_64_v4::kernels;
      static Kernels counts_ones = x86_64_v4::kernels;
      counts_ones.name = "x86_64_v4_vpopcntdq";
      counts_ones.gates = x86_64_v4_vpopcntdq::gate_kernels;
      if (__builtin_cpu_supports("avx512vpopcntdq")) list[count++] = &counts_ones;
    }
#endif
    return true;
  }();
  (void)filled;
  return list;
}

bool has_avx512() {
#if defined(TFC_X86_64)
  __builtin_cpu_init();
  return __builtin_cpu_supports("x86-64-v4");
#else
  return false;
#endif
}

bool multiplies_bfloat16() {
#if defined(TFC_X86_64)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

FusedGemmFunction fused_gemm() {
#if defined(TFC_X86_64)
  __builtin_cpu_init();
  return __builtin_cpu_supports("x86-64-v3") ? x86_64_v3::fused_gemm : nullptr;
#else
  return nullptr;
#endif
}

namespace {

const Kernels* find(const char* name) {
  std::string names;
  for (const Kernels* const* set = available(); *set != nullptr; ++set) {
    if (std::strcmp((*set)->name, name) == 0) return *set;
    names += (names.empty() ? "" : ", ") + std::string((*set)->name);
  }
  throw std::invalid_argument("instruction set '" + std::string(name) +
                              "' is not available here; choose one of: " + names);
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> set = [] {
    const char* wanted = std::getenv("TFC_FAST_INSTRUCTION_SET");
    if (wanted != nullptr && *wanted != '\0') return find(wanted);
    const Kernels* const* list = available();
    while (list[1] != nullptr) ++list;
    return list[0];
  }();
  return set;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

void use(const char* name) { current() = find(name); }

}  // namespace tfc::cpu
