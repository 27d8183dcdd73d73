// Devices, modules and kernels: part of the stand-in for libcuda.so.1. Kernels are those of `worker/kernels`, compiled behind
// `emulator.h` into a library beside this one; a module's text says which of them it has, and how large their arguments are.
//
// By the environment: REHEARSAL_GPUS, REHEARSAL_MIG (all are parts of one), REHEARSAL_MIB (memory of each; REHEARSAL_MIB_1: of
// that of the worker in place 1), REHEARSAL_DRIVER (13000 for CUDA 13.0), REHEARSAL_CAPABILITY (80 for 8.0),
// REHEARSAL_INIT (what cuInit says), REHEARSAL_SEED (of the order of work), REHEARSAL_DEAF (streams that do not wait for
// events).

#include <dlfcn.h>
#include <unistd.h>

#include "device.h"

using namespace rehearsal;

namespace {

struct Function {
    std::string name;
    std::vector<size_t> sizes;
    int (*run)(void**, const unsigned*, const unsigned*, unsigned, int);
    int most_shared = 48 * 1024;
};

struct Module {
    std::map<std::string, std::vector<size_t>> kernels;
};

std::atomic<bool> started{false};

// A context is a place here.
char contexts[16];

long gpus() {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    const long all = setting("REHEARSAL_GPUS", 1);
    if (visible == nullptr) return all;
    // As CUDA does, those before the first that is not there.
    long count = 0;
    for (const char* at = visible; *at != 0;) {
        char* end = nullptr;
        const long number = std::strtol(at, &end, 10);
        if (end == at || number < 0 || number >= all) break;
        count++;
        at = *end == ',' ? end + 1 : end;
        if (*end != ',' && *end != 0) break;
    }
    return count;
}

// Whether all are parts of the first GPU.
bool parts() { return setting("REHEARSAL_MIG", 0) != 0; }

// Which GPU of the machine is the process's n-th.
long physical(long ordinal) {
    const char* at = std::getenv("CUDA_VISIBLE_DEVICES");
    if (at == nullptr) return ordinal;
    char* end = nullptr;
    long number = std::strtol(at, &end, 10);
    for (; ordinal > 0 && *end == ','; ordinal--) number = std::strtol(end + 1, &end, 10);
    return number;
}

// The kernels of a module's text with the sizes of their parameters.
Module* read(const char* text) {
    auto module = std::make_unique<Module>();
    std::string name;
    for (const char* line = text; line != nullptr && *line != 0;) {
        const char* end = std::strchr(line, '\n');
        const std::string words(line, end == nullptr ? std::strlen(line) : static_cast<size_t>(end - line));
        line = end == nullptr ? nullptr : end + 1;
        const size_t entry = words.find(".entry ");
        if (entry != std::string::npos) {
            name = words.substr(entry + 7, words.find('(') - entry - 7);
            module->kernels[name];
        } else if (words.find(".param ") != std::string::npos && !name.empty() && words.find('\t') == 0 &&
                   words.find("ld.param") == std::string::npos) {
            const size_t array = words.rfind('[');
            size_t size = 4;
            if (array != std::string::npos) size = std::strtoul(words.c_str() + array + 1, nullptr, 10);
            else if (words.find("64 ") != std::string::npos) size = 8;
            module->kernels[name].push_back(size);
        } else if (words.find('{') == 0) {
            name.clear();
        }
    }
    return module->kernels.empty() ? nullptr : module.release();
}

// The library of the kernels, which lies beside this one. Nobody else's symbols are mixed up with its own.
void* kernels() {
    static void* library = [] {
        Dl_info self;
        dladdr(reinterpret_cast<void*>(&kernels), &self);
        const std::string path = std::string(self.dli_fname);
        return dlopen((path.substr(0, path.rfind('/') + 1) + "librehearsed.so").c_str(), RTLD_NOW | RTLD_LOCAL);
    }();
    if (library == nullptr) misused(dlerror());
    return library;
}

}  // namespace

extern "C" {

Result cuInit(unsigned) {
    if (const long code = setting("REHEARSAL_INIT", 0)) return static_cast<Result>(code);
    started = true;
    return gpus() > 0 ? SUCCESS : NO_DEVICE;
}

Result cuDriverGetVersion(int* version) {
    *version = static_cast<int>(setting("REHEARSAL_DRIVER", 13000));
    return SUCCESS;
}

Result cuGetErrorName(Result code, const char** name) {
    static const std::map<Result, const char*> names = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},     {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},             {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
        {UNSUPPORTED_PTX, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"}, {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    };
    const auto found = names.find(code);
    // What the library of a toolkit that has no driver says to all calls.
    if (found == names.end() || setting("REHEARSAL_INIT", 0) == STUB_LIBRARY) return INVALID_VALUE;
    *name = found->second;
    return SUCCESS;
}

Result cuGetErrorString(Result code, const char** words) {
    *words = "a rehearsal's";
    return setting("REHEARSAL_INIT", 0) == STUB_LIBRARY || code < 0 ? INVALID_VALUE : SUCCESS;
}

Result cuDeviceGetCount(int* count) {
    *count = static_cast<int>(gpus());
    return started ? SUCCESS : NOT_INITIALIZED;
}

Result cuDeviceGet(int* which, int ordinal) {
    if (ordinal < 0 || ordinal >= gpus()) return INVALID_DEVICE;
    *which = ordinal;
    return SUCCESS;
}

Result cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, static_cast<size_t>(length), parts() ? "no GPU (rehearsal) MIG 1g.10gb" : "no GPU (rehearsal)");
    return SUCCESS;
}

// The second version alone tells parts of a GPU apart; nobody may ask for the first.
Result cuDeviceGetUuid(char*, int) {
    misused("the UUID of a part, asked of a call that tells the whole GPU's");
    return SUCCESS;
}
Result cuDeviceGetUuid_v2(char* uuid, int which) {
    std::memset(uuid, 0, 16);
    uuid[15] = static_cast<char>(physical(which) + 1);
    return SUCCESS;
}

Result cuDeviceGetAttribute(int* value, int attribute, int) {
    const int capability = static_cast<int>(setting("REHEARSAL_CAPABILITY", 80));
    // Both halves of the capability, and that there are memory pools.
    if (attribute == 75) *value = capability / 10;
    else if (attribute == 76) *value = capability % 10;
    else if (attribute == 115) *value = 1;
    else misused("attribute " + std::to_string(attribute) + " of a device");
    return SUCCESS;
}

Result cuDeviceGetP2PAttribute(int* value, int, int, int) {
    *value = 0;
    return SUCCESS;
}

Result cuDeviceGetPCIBusId(char* bus, int length, int which) {
    std::snprintf(bus, static_cast<size_t>(length), "00000000:%02lX:00.0", parts() ? 1 : physical(which) + 1);
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** context, int which) {
    device().holders++;
    *context = &contexts[which];
    return SUCCESS;
}

// Which GPU of the machine the calling thread computes on.
int rehearsal_gpu() { return parts() ? 0 : static_cast<int>(physical(static_cast<char*>(rehearsal::context()) - contexts)); }

Result cuDevicePrimaryCtxRelease_v2(int) {
    if (--device().holders < 0) misused("a context is released too often");
    return SUCCESS;
}

Result cuCtxGetCurrent(void** context) {
    *context = rehearsal::context();
    return SUCCESS;
}

Result cuCtxSetCurrent(void* context) {
    rehearsal::context() = context;
    return SUCCESS;
}

Result cuModuleLoadData(Module** module, const void* image) {
    if (const Result code = state()) return code;
    const auto* text = static_cast<const char*>(image);
    // PTX of version 9.0 is for drivers of CUDA 13.0 and later.
    if (std::strstr(text, ".version 9.") != nullptr && setting("REHEARSAL_DRIVER", 13000) < 13000) return UNSUPPORTED_PTX;
    *module = read(text);
    return *module == nullptr ? INVALID_PTX : SUCCESS;
}

Result cuModuleUnload(Module* module) {
    delete module;
    return SUCCESS;
}

Result cuModuleGetFunction(Function** function, Module* module, const char* name) {
    const auto found = module->kernels.find(name);
    if (found == module->kernels.end()) return NOT_FOUND;
    void* run = dlsym(kernels(), (found->first + "_run").c_str());
    if (run == nullptr) misused(std::string("there is no kernel ") + name);
    *function = new Function{name, found->second, reinterpret_cast<decltype(Function::run)>(run)};
    return SUCCESS;
}

Result cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute != 8 || value > 99 * 1024) return INVALID_VALUE;
    function->most_shared = value;
    return SUCCESS;
}

Result cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                      unsigned threads_z, unsigned shared, Stream* stream, void** arguments, void**) {
    if (const Result code = state()) return code;
    const bool fits = x > 0 && y > 0 && z == 1 && y <= 65535 && x <= 0x7fffffffu && threads > 0 && threads <= 1024 &&
                      threads_y == 1 && threads_z == 1 && static_cast<int>(shared) <= function->most_shared;
    if (!fits) return INVALID_VALUE;
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t i = 0; i < function->sizes.size(); i++) {
        const auto* from = static_cast<const char*>(arguments[i]);
        values->emplace_back(from, from + function->sizes[i]);
    }
    // One process of all, in its 200th launch: who finds this file takes it away.
    static std::atomic<int> launches{0};
    const char* fault = std::getenv("REHEARSAL_FAULT");
    const bool is_struck = ++launches == 200 && fault != nullptr && unlink(fault) == 0;
    launch(stream, [=] {
        if (is_struck) device().failure = LAUNCH_FAILED;
        std::vector<void*> places;
        for (auto& value : *values) places.push_back(value.data());
        const unsigned grid[3] = {x, y, z}, block[3] = {threads, 1, 1};
        if (function->run(places.data(), grid, block, shared, x % 2) != 0) {
            const auto fault = reinterpret_cast<const char* (*)()>(dlsym(kernels(), "emulator_fault"));
            std::fprintf(stderr, "rehearsal: %s: %s\n", function->name.c_str(), fault());
            device().failure = LAUNCH_FAILED;
        }
        return true;
    });
    return SUCCESS;
}

}  // extern "C"
