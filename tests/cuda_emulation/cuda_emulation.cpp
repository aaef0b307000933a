// The scheduler behind cuda_emulation.h, and the functions with which a test steers it.
#include "cuda_emulation.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where the linker has put all static shared memory; both null if no kernel has any.
extern "C" __attribute__((weak)) char __start_tfc_shared[], __stop_tfc_shared[];

namespace tfc::emulation {
namespace {

// ---- fibers ----------------------------------------------------------------------------------

void run_thread();

// swapcontext asks the kernel for the signal mask at every switch, ten times the price of this one.
#if defined(__x86_64__)
struct Fiber {
  void* stack_pointer = nullptr;
};
extern "C" void tfc_emulation_switch(void** from, void* to);
asm(R"(
.text
.type tfc_emulation_switch, @function
tfc_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tfc_emulation_switch, .-tfc_emulation_switch
)");

void prepare(Fiber& fiber, char* stack, size_t bytes) {
  void** top = reinterpret_cast<void**>(stack + bytes) - 2;
  *top = reinterpret_cast<void*>(&run_thread);  // where the first switch returns to
  fiber.stack_pointer = top - 6;
  std::fill(top - 6, top, nullptr);
}
void change(Fiber& from, Fiber& to) { tfc_emulation_switch(&from.stack_pointer, to.stack_pointer); }
#else
struct Fiber {
  ucontext_t context;
};
void prepare(Fiber& fiber, char* stack, size_t bytes) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  makecontext(&fiber.context, run_thread, 0);
}
void change(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr int kMaxThreads = 1024;

char* stacks() {
  static char* memory = static_cast<char*>(mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return memory;
}

// ---- state -----------------------------------------------------------------------------------

enum class State { kReady, kAtBarrier, kInWarp, kEnded };

// What a thread waits for: a barrier, or (line 0) a warp operation.
struct Place {
  const char* name = "";
  int line = 0;
  bool operator==(const Place& other) const { return name == other.name && line == other.line; }
  std::string text() const {
    const std::string file = name;
    return line == 0 ? file : file.substr(file.rfind('/') + 1) + ":" + std::to_string(line);
  }
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  Fiber fiber;
  State state = State::kReady;
  Place place;
  unsigned mask = 0;
  uint64_t brought = 0;
  std::vector<Copy> copies;  // under way
};

struct Memory {
  const char* begin;
  const char* end;
  bool writable;
};

uint64_t random_state = 1;
std::vector<Memory> memories;
std::string first_error;
bool memory_is_watched = true;
std::vector<Place> barriers_seen;
int barrier_to_skip = -1;
long skipped = 0;

uint64_t graph = 0;

Fiber scheduler;
std::vector<Thread> threads;
std::vector<uint64_t> met;  // [threads] what the lanes brought to the last operation of their warp
const std::function<void()>* body = nullptr;
int current = -1;
std::vector<std::vector<int>> ready;  // [warps] threads that can go on
std::vector<uint64_t> priority;       // [warps]

constexpr size_t kSharedBytes = size_t{232448};
constexpr size_t kWatched = 4096;
alignas(128) char shared_memory[kSharedBytes + kWatched];

uint64_t draw() {  // xorshift
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void shuffle(std::vector<int>& values) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[draw() % i]);
}

void set_error(const std::string& message) {
  if (first_error.empty()) first_error = message;
}

std::string where() {
  return "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ") thread " +
         std::to_string(current);
}

void wait(State state) {
  threads[current].state = state;
  change(threads[current].fiber, scheduler);
}

void run_thread() {
  (*body)();
  wait(State::kEnded);
}

void release(int first, int last, State state) {
  for (int i = first; i < last; ++i) {
    if (threads[i].state != state) continue;
    threads[i].state = State::kReady;
    ready[i / 32].push_back(i);
  }
}

std::string describe(int thread) {
  const Thread& t = threads[thread];
  const std::string what = t.state == State::kEnded ? "has ended" : "waits at " + t.place.text();
  return "thread " + std::to_string(thread) + " " + what;
}

// The warp with ready threads that comes first in an order that is drawn anew at every barrier; -1: none. So
// one warp runs from barrier to barrier before another one begins, as far apart as a device may let them get.
int next_warp() {
  int best = -1;
  for (int w = 0; w < static_cast<int>(ready.size()); ++w) {
    if (!ready[w].empty() && (best < 0 || priority[w] > priority[best])) best = w;
  }
  return best;
}

void draw_priorities() {
  for (uint64_t& value : priority) value = draw();
}

// All threads that are left wait at the barrier: lets them go.
bool pass_barrier() {
  int waiting = 0;
  for (const Thread& t : threads) waiting += t.state == State::kAtBarrier;
  if (waiting != static_cast<int>(threads.size())) return false;
  for (size_t i = 1; i < threads.size(); ++i) {
    if (threads[i].place == threads[0].place) continue;
    set_error("divergent barriers: " + describe(0) + ", " + describe(static_cast<int>(i)));
    return false;
  }
  release(0, static_cast<int>(threads.size()), State::kAtBarrier);
  draw_priorities();
  return true;
}

// Lets go the lanes of the running thread's operation, if all of them have come.
void pass_warp_operation(int arrived) {
  const int begin = arrived / 32 * 32;
  const unsigned mask = threads[arrived].mask;
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const int t = begin + i;
    if (t >= static_cast<int>(threads.size()) || threads[t].state != State::kInWarp) return;
    if (threads[t].mask != mask || !(threads[t].place == threads[arrived].place)) return;
  }
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    met[begin + i] = threads[begin + i].brought;
    threads[begin + i].state = State::kReady;
    ready[begin / 32].push_back(begin + i);
  }
}

void report_deadlock() {
  int waiting = -1, other = -1;
  for (size_t i = 0; i < threads.size(); ++i) {
    if (threads[i].state == State::kEnded) continue;
    if (waiting < 0) waiting = static_cast<int>(i);
  }
  for (size_t i = 0; i < threads.size(); ++i) {
    if (threads[i].state != threads[waiting].state || !(threads[i].place == threads[waiting].place)) {
      other = static_cast<int>(i);
      break;
    }
  }
  set_error("deadlock in block " + std::to_string(blockIdx.x) + ": " + describe(waiting) +
            (other < 0 ? ", for lanes that do not exist" : ", " + describe(other)));
}

void run_block(int num_threads, int64_t shared_bytes) {
  std::memset(shared_memory, 0xFF, shared_bytes + kWatched);
  const size_t statics = __stop_tfc_shared - __start_tfc_shared;
  if (statics > 0) std::memset(__start_tfc_shared, 0xFF, statics);
  threads.assign(num_threads, {});
  met.assign(num_threads + 31, 0);
  ready.assign((num_threads + 31) / 32, {});
  priority.resize(ready.size());
  draw_priorities();
  for (int i = 0; i < num_threads; ++i) {
    prepare(threads[i].fiber, stacks() + i * kStackBytes, kStackBytes);
    ready[i / 32].push_back(i);
  }
  std::vector<int> round;
  while (first_error.empty()) {
    const int warp = next_warp();
    if (warp < 0) {
      if (pass_barrier()) continue;
      break;
    }
    round.swap(ready[warp]);
    ready[warp].clear();
    shuffle(round);
    for (const int i : round) {
      current = i;
      threadIdx = {static_cast<unsigned>(i), 0, 0};
      change(scheduler, threads[i].fiber);
      if (!first_error.empty()) break;
      if (threads[i].state == State::kInWarp) pass_warp_operation(i);
    }
  }
  current = -1;
  if (!first_error.empty()) return;
  if (std::any_of(threads.begin(), threads.end(), [](auto& t) { return t.state != State::kEnded; })) {
    return report_deadlock();
  }
  for (size_t i = 0; i < kWatched; ++i) {
    if (shared_memory[shared_bytes + i] == '\xFF') continue;
    return set_error("wrote " + std::to_string(i) + " bytes past the dynamic shared memory");
  }
}

}  // namespace

cudaError_t launch(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& thread) {
  if (!first_error.empty()) return cudaErrorLaunchFailure;
  if (block.x < 1 || block.x > kMaxThreads || block.y != 1 || block.z != 1 || grid.z != 1 || grid.x < 1 ||
      grid.y < 1 || grid.y > 65535 || shared_bytes < 0 || shared_bytes > static_cast<int64_t>(kSharedBytes)) {
    set_error("a launch of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " blocks of " +
              std::to_string(block.x) + " threads, " + std::to_string(shared_bytes) + " bytes");
    return cudaErrorInvalidValue;
  }
  gridDim = grid;
  blockDim = block;
  body = &thread;
  std::vector<int> blocks(grid.x * grid.y);
  std::iota(blocks.begin(), blocks.end(), 0);
  shuffle(blocks);
  for (const int b : blocks) {
    blockIdx = {b % grid.x, b / grid.x, 0};
    run_block(static_cast<int>(block.x), shared_bytes);
    if (!first_error.empty()) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

void watch_memory(bool watched) { memory_is_watched = watched; }

uint64_t graph_under_capture() { return graph; }

std::string take_error() { return std::exchange(first_error, {}); }

void* dynamic_shared() { return shared_memory; }

int lane() { return current % 32; }

void barrier(const char* file, int line) {
  const Place place{file, line};
  auto seen = std::find(barriers_seen.begin(), barriers_seen.end(), place);
  if (seen == barriers_seen.end()) seen = barriers_seen.insert(seen, place);
  if (seen - barriers_seen.begin() == barrier_to_skip) {
    ++skipped;
    return;
  }
  threads[current].place = place;
  wait(State::kAtBarrier);
}

const uint64_t* meet(const char* operation, unsigned mask, uint64_t mine) {
  if (!(mask >> lane() & 1)) fail("%s: the lane is not in its own mask %08x", operation, mask);
  threads[current].place = {operation, 0};
  threads[current].mask = mask;
  threads[current].brought = mine;
  wait(State::kInWarp);
  return met.data() + current / 32 * 32;
}

void begin_copy(void* to, const void* from, size_t bytes) {
  std::memset(to, 0xFF, bytes);
  threads[current].copies.push_back({to, from, bytes});
}

void end_copies() {
  for (const Copy& copy : threads[current].copies) std::memcpy(copy.to, copy.from, copy.bytes);
  threads[current].copies.clear();
}

void check_access(const void* address, size_t bytes, size_t alignment, bool writes) {
  if (current < 0) return;
  const char* begin = static_cast<const char*>(address);
  if (reinterpret_cast<uintptr_t>(begin) % alignment != 0) {
    fail("misaligned: %zu bytes at an address that is no multiple of %zu", bytes, alignment);
  }
  // Atomic operations go to shared memory, too.
  if (begin >= shared_memory && begin + bytes <= shared_memory + sizeof(shared_memory)) return;
  if (!memory_is_watched) return;
  for (const Memory& memory : memories) {
    if (begin < memory.begin || begin + bytes > memory.end) continue;
    if (writes && !memory.writable) fail("wrote memory that is read only");
    return;
  }
  fail("out of bounds: %s %zu bytes", writes ? "wrote" : "read", bytes);
}

void fail(const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  set_error(where() + ": " + message);
  for (;;) wait(State::kEnded);  // never resumed: the launch stops at the error
}

}  // namespace tfc::emulation

// ---- for the tests -----------------------------------------------------------------------------

extern "C" {

void emulation_reset(uint64_t seed) {
  using namespace tfc::emulation;
  random_state = seed * 0x9E3779B97F4A7C15u + 1;
  memories.clear();
  first_error.clear();
  barrier_to_skip = -1;
  skipped = 0;
}

void emulation_register(const void* begin, size_t bytes, int writable) {
  const char* first = static_cast<const char*>(begin);
  tfc::emulation::memories.push_back({first, first + bytes, writable != 0});
}

// Barriers are numbered in the order in which threads first came to them.
void emulation_skip_barrier(int index) { tfc::emulation::barrier_to_skip = index; }
int emulation_num_barriers() { return static_cast<int>(tfc::emulation::barriers_seen.size()); }
const char* emulation_barrier(int index) {
  static std::string text;
  text = tfc::emulation::barriers_seen[index].text();
  return text.c_str();
}
long emulation_skipped() { return tfc::emulation::skipped; }

// Called in the emulated extension, too.
__attribute__((visibility("default"))) void emulation_capture(uint64_t graph) {
  tfc::emulation::graph = graph;
}

const char* emulation_error() { return tfc::emulation::first_error.c_str(); }
}
