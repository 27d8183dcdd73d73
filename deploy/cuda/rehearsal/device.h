// A GPU that is not there: streams whose work a thread of its own does, later than it was asked for and in any order that
// the streams' events allow. What a buffer is read for after it was freed, or before another stream has written it, shows
// as NaN. Times mean nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace rehearsal {

// Does a piece of work, or says that it cannot yet.
using Work = std::function<bool()>;

using Result = int;

enum : Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    STUB_LIBRARY = 34,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
};

struct Stream {
    std::deque<Work> work;
    // What is recorded in place of being done; null while nothing is.
    std::unique_ptr<std::vector<Work>> recorded;
};

// What an event stands for since it was recorded last, or that memory is free.
using Mark = std::shared_ptr<std::atomic<bool>>;

// Memory between two walls.
struct Block {
    char* start;
    size_t bytes;
    // The stream in whose order it was freed, and whether that has come so far; null while it is in use.
    Stream* stream = nullptr;
    Mark freed;
};

struct Device {
    std::mutex lock;
    // A piece of work was done, or has come.
    std::condition_variable moved;
    std::vector<Stream*> streams;
    std::map<uint64_t, Block> blocks;
    size_t used = 0, most_used = 0;
    std::atomic<int> holders{0};
    // What every call is answered with, once a kernel has failed.
    std::atomic<Result> failure{SUCCESS};
    bool runs = false;
};

// The process's GPUs, of which one is enough; never destroyed: its thread outlives `main`.
Device& device();

// The calling thread's context.
void*& context();

// What a call is answered with that is not at fault itself.
inline Result state() { return context() == nullptr ? INVALID_CONTEXT : device().failure.load(); }

// Enqueues work on a stream that does not record.
void add(Stream* stream, Work work);

// Enqueues a kernel, which a stream that records keeps: it may be done any number of times.
void launch(Stream* stream, Work work);

// The same for the other libraries, to which a stream is a pointer.
inline void enqueue(void* stream, Work work) { launch(static_cast<Stream*>(stream), std::move(work)); }

// What the environment says, or `otherwise`.
inline long setting(const char* name, long otherwise) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != 0 ? std::strtol(value, nullptr, 10) : otherwise;
}

// A call that the real library would not survive, or would answer with wrong numbers.
[[noreturn]] inline void misused(const std::string& problem) {
    std::fprintf(stderr, "rehearsal: %s\n", problem.c_str());
    std::abort();
}

inline float from_bf16(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
}

inline uint16_t to_bf16(float value) {
    if (value != value) return 0x7fff;
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace rehearsal
