// Runs the kernels on the host: what CUDA C++ has and C++ has not, in as little as the kernels use.
//
// Put in front of a kernel's source, it turns every kernel into a function that runs a grid, block after block. The
// threads of a block are fibers; a fiber runs until it comes to a barrier and then yields. Each launch runs them in one
// of two orders, ascending and descending, so that a missing barrier shows. Shared memory starts as NaN. A barrier that
// not all threads reach ends the launch with an error, and so does an access of several elements at once, a copy or a
// matrix in shared memory, that is not aligned as a GPU demands or lies outside of what the block shares.
#pragma once
#define MEDLEY_EMULATED

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define SHARED(name) float* name = emulator::shared()
#define KERNEL(name, parameters)                                                                                      \
    extern "C" void name parameters;                                                                                  \
    extern "C" int name##_run(void** arguments, const unsigned* grid, const unsigned* block, unsigned shared_bytes,   \
                              int descending) {                                                                       \
        return emulator::run(&name, arguments, grid, block, shared_bytes, descending, MOST_THREADS);                  \
    }                                                                                                                 \
    extern "C" void name parameters

using std::max;
using std::min;

struct uint3 {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

constexpr unsigned WARP_SIZE = 32;
constexpr size_t STACK_BYTES = 64 * 1024;

enum class Waits { NOWHERE, BLOCK, WARP, ENDED };

struct Copy {
    void* to;
    const void* from;
};

struct Fiber {
    ucontext_t start;
    // Where it begins a block's work, and where it waits.
    jmp_buf begin, at;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    bool made = false, started = false;
    Waits waits = Waits::NOWHERE;
    // What the thread shows to its warp.
    const void* shown = nullptr;
    // What it has begun to copy: nothing is there before it has waited for it.
    std::vector<Copy> copies;
};

// The block that runs. Kernels run one at a time: the caller sees to it.
struct Block {
    uint3 block{}, blocks{}, threads{};
    std::vector<Fiber> fibers;
    unsigned thread = 0;
    std::vector<float> memory;
    size_t shared_bytes = 0;
    jmp_buf scheduler;
    void (*body)(void*) = nullptr;
    void* context = nullptr;
    // What is wrong with it; empty while nothing is.
    std::string fault;
};

inline Block running;

inline float* shared() { return running.memory.data(); }

inline void wait_at(Waits barrier) {
    Fiber& fiber = running.fibers[running.thread];
    fiber.waits = barrier;
    if (_setjmp(fiber.at) == 0) _longjmp(running.scheduler, 1);
}

// Ends the launch at what a GPU would not do.
inline void fail(const std::string& fault) {
    if (running.fault.empty()) running.fault = fault;
    wait_at(Waits::ENDED);
}

// An access of `bytes` bytes at once: its address is a multiple of them.
inline void check_aligned(const char* what, const void* at, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(at) % bytes == 0) return;
    char text[128];
    std::snprintf(text, sizeof text, "%s of %zu bytes at %p, which is no multiple of them", what, bytes, at);
    fail(text);
}

// The same of 16 bytes that the block shares.
inline void check_shared(const char* what, const void* at) {
    const auto place = reinterpret_cast<intptr_t>(at) - reinterpret_cast<intptr_t>(shared());
    if (place >= 0 && place % 16 == 0 && static_cast<size_t>(place) + 16 <= running.shared_bytes) return;
    char text[128];
    std::snprintf(text, sizeof text, "%s of 16 bytes at byte %td of the %zu that the block shares", what, place,
                  running.shared_bytes);
    fail(text);
}

// A fiber's life: it does its part of one block after another.
inline void enter() {
    _setjmp(running.fibers[running.thread].begin);
    running.body(running.context);
    running.fibers[running.thread].waits = Waits::ENDED;
    _longjmp(running.scheduler, 1);
}

inline void make(Fiber& fiber) {
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    fiber.made = true;
    setcontext(&fiber.start);
}

inline void resume(unsigned thread) {
    running.thread = thread;
    Fiber& fiber = running.fibers[thread];
    fiber.waits = Waits::NOWHERE;
    if (_setjmp(running.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    if (fiber.made) _longjmp(fiber.begin, 1);
    make(fiber);
}

// Lets go of the threads from `first` to `end` if all of them wait at this barrier. Whether none of them can go on.
inline bool release(Waits barrier, unsigned first, unsigned end) {
    unsigned waiting = 0, ended = 0;
    for (unsigned i = first; i < end; i++) {
        waiting += running.fibers[i].waits == barrier;
        ended += running.fibers[i].waits == Waits::ENDED;
    }
    if (waiting == end - first) {
        for (unsigned i = first; i < end; i++) running.fibers[i].waits = Waits::NOWHERE;
    }
    return waiting > 0 && waiting + ended == end - first && ended > 0;
}

inline void run_block(bool descending) {
    const unsigned count = running.threads.x;
    std::memset(running.memory.data(), 0xff, running.memory.size() * sizeof(float));
    for (Fiber& fiber : running.fibers) {
        fiber.started = false;
        fiber.waits = Waits::NOWHERE;
    }
    for (bool moved = true; moved && running.fault.empty();) {
        moved = false;
        for (unsigned i = 0; i < count; i++) {
            const unsigned thread = descending ? count - 1 - i : i;
            if (running.fibers[thread].waits != Waits::NOWHERE) continue;
            resume(thread);
            moved = true;
        }
        bool stuck = release(Waits::BLOCK, 0, count);
        for (unsigned warp = 0; warp < count; warp += WARP_SIZE) {
            stuck |= release(Waits::WARP, warp, std::min(warp + WARP_SIZE, count));
        }
        if (stuck && running.fault.empty()) running.fault = "a barrier that some threads have passed by";
        for (Fiber& fiber : running.fibers) moved |= fiber.waits == Waits::NOWHERE;
    }
    for (Fiber& fiber : running.fibers) {
        if (fiber.waits != Waits::ENDED && running.fault.empty()) running.fault = "threads wait at different barriers";
    }
}

template <class... A, size_t... I>
int run_with(void (*kernel)(A...), void** arguments, const unsigned* grid, bool descending, std::index_sequence<I...>) {
    auto call = [&] { kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...); };
    running.context = &call;
    running.body = [](void* context) { (*static_cast<decltype(call)*>(context))(); };
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                running.block = {x, y, z};
                run_block(descending);
                if (!running.fault.empty()) return 1;
            }
    return 0;
}

template <class... A>
int run(void (*kernel)(A...), void** arguments, const unsigned* grid, const unsigned* block, unsigned shared_bytes,
        int descending, unsigned most_threads) {
    running.fault.clear();
    if (block[1] != 1 || block[2] != 1 || block[0] == 0 || block[0] > most_threads) return 2;
    running.blocks = {grid[0], grid[1], grid[2]};
    running.threads = {block[0], 1, 1};
    if (running.fibers.size() != block[0]) running.fibers = std::vector<Fiber>(block[0]);
    running.memory.resize((shared_bytes + 15) / 4);
    running.shared_bytes = shared_bytes;
    return run_with(kernel, arguments, grid, descending != 0, std::index_sequence_for<A...>{});
}

// What the launch before, which did not succeed, was ended for.
extern "C" __attribute__((used, weak)) const char* emulator_fault() { return running.fault.c_str(); }

inline uint3 thread_index() { return {running.thread, 0, 0}; }

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::running.block)
#define blockDim (emulator::running.threads)
#define gridDim (emulator::running.blocks)

inline void __syncthreads() { emulator::wait_at(emulator::Waits::BLOCK); }
inline void __syncwarp() { emulator::wait_at(emulator::Waits::WARP); }

namespace emulator {

// Shows `mine` to the warp; `look` is given what shows a lane's.
template <class V, class F>
void exchange(const V& mine, F look) {
    running.fibers[running.thread].shown = &mine;
    __syncwarp();
    const unsigned first = running.thread / WARP_SIZE * WARP_SIZE;
    look([first](unsigned lane) -> const V& { return *static_cast<const V*>(running.fibers[first + lane].shown); });
    __syncwarp();
}

}  // namespace emulator

inline float __shfl_xor_sync(unsigned, float value, int mask) {
    float other = 0.0f;
    emulator::exchange(value, [&](auto lane) { other = lane((emulator::running.thread ^ mask) % emulator::WARP_SIZE); });
    return other;
}

// What `mma.cuh` asks of a GPU. Where nothing is copied, the address is still one of an aligned copy.
inline void begin_copy16(void* to, const void* from, bool exists) {
    emulator::check_shared("a copy to shared memory", to);
    emulator::check_aligned("a copy to shared memory", from, 16);
    emulator::running.fibers[emulator::running.thread].copies.push_back({to, exists ? from : nullptr});
}

inline void end_copies() {
    std::vector<emulator::Copy>& copies = emulator::running.fibers[emulator::running.thread].copies;
    for (const emulator::Copy& copy : copies) {
        if (copy.from == nullptr) std::memset(copy.to, 0, 16);
        else std::memcpy(copy.to, copy.from, 16);
    }
    copies.clear();
}

inline void load_matrices(unsigned (&pairs)[4], const void* row) {
    emulator::check_shared("a row of a matrix", row);
    const unsigned mine = emulator::running.thread % emulator::WARP_SIZE;
    emulator::exchange(row, [&](auto lane) {
        for (unsigned m = 0; m < 4; m++) pairs[m] = static_cast<const unsigned*>(lane(8 * m + mine / 4))[mine % 4];
    });
}

inline void load_transposed(unsigned (&pairs)[4], const void* row) {
    emulator::check_shared("a row of a matrix", row);
    const unsigned mine = emulator::running.thread % emulator::WARP_SIZE;
    emulator::exchange(row, [&](auto lane) {
        const auto element = [&](unsigned at) { return static_cast<const unsigned short*>(lane(at))[mine / 4]; };
        for (unsigned m = 0; m < 4; m++) {
            const unsigned first = 8 * m + 2 * (mine % 4);
            pairs[m] = element(first) | static_cast<unsigned>(element(first + 1)) << 16;
        }
    });
}

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float bf16_to_float(unsigned short bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

// To the nearest, ties to even.
inline unsigned short float_to_bf16(float value) {
    if (std::isnan(value)) return 0x7fff;
    const uint32_t bits = float_to_bits(value);
    return static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float f16_to_float(unsigned short bits) {
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

// To the nearest, ties to even: `nearbyint` rounds so by default.
inline unsigned short float_to_f16(float value) {
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return 0x7fff;
    const float size = std::fabs(value);
    if (size >= 65520.0f) return sign | 0x7c00;
    const int exponent = std::max(size == 0.0f ? -14 : std::ilogb(size), -14);
    const int fraction = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    // A fraction that rounds up to the next power carries into the exponent, as it should.
    return sign | static_cast<unsigned short>(((exponent + 14) << 10) + fraction);
}
