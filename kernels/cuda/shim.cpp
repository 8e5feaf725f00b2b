// The runtime behind shim.h: fibers, barriers, warp exchange, late copies.
#include "shim.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

__thread Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {
namespace {

struct Kernel {
  const void* function;
  Trampoline trampoline;
  unsigned args;
};

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "kernel shim: %s\n", what);
  std::abort();
}

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32, kSlotBytes = 64;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  State state;
  Dim3 index;
  unsigned linear;
  bool odd;  // which of the two exchange buffers comes next
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
#if defined(__x86_64__)
  void* sp;
#else
  ucontext_t context;
#endif
};

struct Worker {
  unsigned char* stacks = nullptr;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  std::vector<unsigned char> shared;
  alignas(64) unsigned char exchange[kMaxWarps][2][32][kSlotBytes];
  const Kernel* kernel = nullptr;
  void** args = nullptr;
#if defined(__x86_64__)
  void* scheduler_sp = nullptr;
#else
  ucontext_t scheduler;
#endif

  ~Worker() {
    if (stacks) munmap(stacks, kStackBytes * kMaxThreads);
  }
};

Worker& worker() {
  static thread_local std::unique_ptr<Worker> one = std::make_unique<Worker>();
  return *one;
}

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack, its pointer in *save, and goes on with another stack.
extern "C" void leoma_shim_switch(void** save, void* load);
asm(R"(
.text
.globl leoma_shim_switch
.type leoma_shim_switch,@function
leoma_shim_switch:
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
.size leoma_shim_switch,.-leoma_shim_switch
)");
#endif

void to_scheduler() {
  Worker& w = worker();
#if defined(__x86_64__)
  leoma_shim_switch(&w.current->sp, w.scheduler_sp);
#else
  swapcontext(&w.current->context, &w.scheduler);
#endif
}

void fiber_main() {
  Worker& w = worker();
  w.kernel->trampoline(w.kernel->function, w.args);
  wait_copies(0);
  if (!w.current->open.empty()) die("asynchronous copies were started and never committed");
  w.current->state = State::kDone;
  to_scheduler();
  die("a finished thread was resumed");
}

void prepare(Worker& w, Fiber& fiber) {
  unsigned char* stack = w.stacks + kStackBytes * fiber.linear;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // where fiber_main would return to; keeps the stack aligned at its entry
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.sp = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
#endif
}

void resume(Worker& w, Fiber& fiber) {
  w.current = &fiber;
  threadIdx = fiber.index;
#if defined(__x86_64__)
  leoma_shim_switch(&w.scheduler_sp, fiber.sp);
#else
  swapcontext(&w.scheduler, &fiber.context);
#endif
}

// Lets the threads at a barrier go on if all that still run have reached it.
bool release(Fiber* begin, Fiber* end, State barrier) {
  bool any = false;
  for (Fiber* f = begin; f != end; ++f) {
    if (f->state != barrier && f->state != State::kDone) return false;
    any |= f->state == barrier;
  }
  for (Fiber* f = begin; f != end; ++f) {
    if (f->state == barrier) f->state = State::kReady;
  }
  return any;
}

void run_block(Worker& w, const std::vector<unsigned>& order) {
  const unsigned threads = w.fibers.size();
  std::fill(w.shared.begin(), w.shared.end(), 0xff);
  for (Fiber& fiber : w.fibers) {
    fiber.state = State::kReady;
    fiber.odd = false;
    prepare(w, fiber);
  }
  while (true) {
    bool ran = false;
    for (unsigned i : order) {
      if (w.fibers[i].state == State::kReady) {
        resume(w, w.fibers[i]);
        ran = true;
      }
    }
    for (unsigned start = 0; start < threads; start += 32) {
      Fiber* begin = &w.fibers[start];
      ran |= release(begin, begin + std::min(32u, threads - start), State::kAtWarpBarrier);
    }
    ran |= release(w.fibers.data(), w.fibers.data() + threads, State::kAtBlockBarrier);
    if (!ran) break;
  }
  for (const Fiber& fiber : w.fibers) {
    if (fiber.state != State::kDone) die("some threads wait at a barrier that others never reach");
  }
}

}  // namespace

void add_kernel(const char* name, const void* function, Trampoline trampoline, unsigned args) {
  if (!kernels().emplace(name, Kernel{function, trampoline, args}).second) die("two kernels of one name");
}

void sync_block() {
  worker().current->state = State::kAtBlockBarrier;
  to_scheduler();
}

void sync_warp() {
  worker().current->state = State::kAtWarpBarrier;
  to_scheduler();
}

unsigned lane() { return worker().current->linear % 32; }

const unsigned char* warp_gather(const void* mine, size_t size) {
  if (size > kSlotBytes) die("too much for one exchange between lanes");
  Worker& w = worker();
  Fiber& fiber = *w.current;
  auto& slots = w.exchange[fiber.linear / 32][fiber.odd];
  fiber.odd = !fiber.odd;
  std::memcpy(slots[fiber.linear % 32], mine, size);
  sync_warp();
  return slots[0];
}

void* dynamic_shared() { return worker().shared.data(); }

void copy_later(void* to, const void* from, size_t bytes) {
  worker().current->open.push_back({to, from, bytes});
}

void commit_copies() {
  Fiber& fiber = *worker().current;
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void wait_copies(unsigned pending_groups) {
  auto& groups = worker().current->groups;
  while (groups.size() > pending_groups) {
    for (const Copy& copy : groups.front()) {
      if (copy.from) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
    groups.erase(groups.begin());
  }
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 0) {
    const float tiny = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -tiny : tiny;
  }
  const uint32_t rest = exponent == 31 ? 0x7f800000u | fraction << 13
                                       : (exponent + 112) << 23 | fraction << 13;
  return __uint_as_float(sign | rest);
}

uint16_t float_to_half(float x) {
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffff;
  const uint16_t sign = bits >> 16 & 0x8000;
  if (magnitude > 0x7f800000) return sign | 0x7fff;
  if (magnitude >= 0x47800000) return sign | 0x7c00;  // 65536 and more
  if (magnitude < 0x38800000) {                       // below the smallest normal: multiples of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(__uint_as_float(magnitude) * 16777216.0f));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

uint16_t float_to_bf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace shim

// Runs a kernel as cuLaunchKernel would. `order`: 0 threads in order, 1 in reverse, other values shuffle.
// Returns 0, 1 for an unknown kernel, 2 for a wrong number of arguments, 3 for a shape no card takes.
extern "C" int leoma_shim_launch(const char* name, const unsigned grid[3], const unsigned block[3],
                                 unsigned shared_bytes, unsigned order, void** args, unsigned count) {
  using namespace shim;
  const auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  if (found->second.args != count) return 2;
  const uint64_t threads = static_cast<uint64_t>(block[0]) * block[1] * block[2];
  if (threads == 0 || threads > kMaxThreads || grid[1] > 65535 || grid[2] > 65535 ||
      static_cast<uint64_t>(grid[0]) * grid[1] * grid[2] == 0) {
    return 3;
  }
  Worker& w = worker();
  if (!w.stacks) {
    void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) die("no memory for stacks");
    w.stacks = static_cast<unsigned char*>(memory);
  }
  w.kernel = &found->second;
  w.args = args;
  w.shared.assign(shared_bytes + 16, 0);
  w.fibers.clear();
  w.fibers.resize(threads);
  std::vector<unsigned> sequence(threads);
  for (unsigned i = 0; i < threads; ++i) {
    w.fibers[i].linear = i;
    w.fibers[i].index = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
    sequence[i] = order == 1 ? threads - 1 - i : i;
  }
  if (order > 1) {
    uint64_t state = order;
    for (unsigned i = threads - 1; i > 0; --i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(sequence[i], sequence[(state >> 33) % (i + 1)]);
    }
  }
  blockDim = {block[0], block[1], block[2]};
  gridDim = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < grid[2]; ++z) {
    for (unsigned y = 0; y < grid[1]; ++y) {
      for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        run_block(w, sequence);
      }
    }
  }
  return 0;
}
