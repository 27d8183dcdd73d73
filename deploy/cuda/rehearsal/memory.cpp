// Memory and copies: part of the stand-in for libcuda.so.1. What is taken is NaN, and so is what was freed.

#include <algorithm>

#include "device.h"

using namespace rehearsal;

namespace {

constexpr size_t WALL = 256;
constexpr unsigned char UNWRITTEN = 0xff;

void check_walls(const Block& block) {
    for (const char* wall : {block.start, block.start + WALL + block.bytes})
        for (size_t i = 0; i < WALL; i++)
            if (static_cast<unsigned char>(wall[i]) != UNWRITTEN)
                misused("a kernel has written outside of " + std::to_string(block.bytes) + " bytes");
}

// Of the GPU of the worker in place N, REHEARSAL_MIB_N where that is given.
size_t total() {
    const long all = setting("REHEARSAL_MIB", 4096);
    const char* place = std::getenv("LOCAL_RANK");
    const long own = place == nullptr ? all : setting(("REHEARSAL_MIB_" + std::string(place)).c_str(), all);
    return static_cast<size_t>(own) << 20;
}

}  // namespace

extern "C" {

Result cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = total();
    return SUCCESS;
}

Result cuMemAllocAsync(uint64_t* address, size_t bytes, Stream* stream) {
    if (const Result code = state()) return code;
    if (bytes == 0) return INVALID_VALUE;
    Device& gpu = device();
    std::unique_lock<std::mutex> guard(gpu.lock);
    if (gpu.used + bytes > total()) return OUT_OF_MEMORY;
    auto fits = [&](const auto& entry) {
        const Block& block = entry.second;
        return block.bytes == bytes && block.freed != nullptr && (block.stream == stream || *block.freed);
    };
    const auto found = std::find_if(gpu.blocks.begin(), gpu.blocks.end(), fits);
    char* start = found == gpu.blocks.end() ? static_cast<char*>(std::aligned_alloc(256, (bytes + 2 * WALL + 255) & ~size_t{255}))
                                            : found->second.start;
    *address = reinterpret_cast<uint64_t>(start + WALL);
    gpu.blocks[*address] = Block{start, bytes, nullptr, nullptr};
    gpu.used += bytes;
    gpu.most_used = std::max(gpu.most_used, gpu.used);
    guard.unlock();
    add(stream, [start, bytes] {
        std::memset(start, UNWRITTEN, bytes + 2 * WALL);
        return true;
    });
    return SUCCESS;
}

Result cuMemFreeAsync(uint64_t address, Stream* stream) {
    Device& gpu = device();
    std::unique_lock<std::mutex> guard(gpu.lock);
    const auto found = gpu.blocks.find(address);
    if (found == gpu.blocks.end() || found->second.freed != nullptr) misused("memory is freed that is not in use");
    Block& block = found->second;
    block.stream = stream;
    const Mark freed = block.freed = std::make_shared<std::atomic<bool>>(false);
    gpu.used -= block.bytes;
    const Block copy = block;
    guard.unlock();
    add(stream, [copy, freed] {
        check_walls(copy);
        std::memset(copy.start, UNWRITTEN, copy.bytes + 2 * WALL);
        return *freed = true;
    });
    return SUCCESS;
}

Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
    if (const Result code = state()) return code;
    add(stream, [=] { return std::memset(reinterpret_cast<void*>(to), value, bytes) != nullptr; });
    return SUCCESS;
}

// What is copied from is the caller's again when the call comes back.
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    if (const Result code = state()) return code;
    const auto* first = static_cast<const char*>(from);
    const auto copy = std::make_shared<std::vector<char>>(first, first + bytes);
    add(stream, [=] { return std::memcpy(reinterpret_cast<void*>(to), copy->data(), bytes) != nullptr; });
    return SUCCESS;
}

Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    if (const Result code = state()) return code;
    add(stream, [=] { return std::memcpy(to, reinterpret_cast<const void*>(from), bytes) != nullptr; });
    return SUCCESS;
}

Result cuMemGetInfo_v2(size_t* free, size_t* all) {
    std::lock_guard<std::mutex> guard(device().lock);
    *free = total() - device().used;
    *all = total();
    return state();
}

Result cuDeviceGetDefaultMemPool(void** pool, int) {
    *pool = &device();
    return SUCCESS;
}

Result cuMemPoolSetAttribute(void*, int attribute, void* value) {
    if (attribute != 4 || *static_cast<uint64_t*>(value) != UINT64_MAX) misused("a memory pool is set up otherwise");
    return SUCCESS;
}

Result cuMemPoolTrimTo(void*, size_t keep) {
    if (keep != 0) misused("a memory pool is trimmed otherwise");
    return state();
}

Result cuMemPoolGetAttribute(void*, int attribute, void* value) {
    std::lock_guard<std::mutex> guard(device().lock);
    *static_cast<uint64_t*>(value) = attribute == 8 ? device().most_used : device().used;
    return SUCCESS;
}

}  // extern "C"
