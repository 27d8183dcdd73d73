// Stands in for libcublas.so.13 and libcurand.so.10, of which candle opens a handle and a generator, and asks for nothing.

#include "device.h"

using namespace rehearsal;

enum : int { GOOD = 0, NOT_READY_YET = 1 };

struct Handle {};

extern "C" {

int cublasCreate_v2(Handle** handle) {
    if (context() == nullptr) return NOT_READY_YET;
    *handle = new Handle;
    return GOOD;
}

int cublasDestroy_v2(Handle* handle) {
    delete handle;
    return GOOD;
}

int cublasSetStream_v2(Handle*, void*) { return GOOD; }

int curandCreateGenerator(void** generator, int) {
    *generator = generator;
    return context() == nullptr ? 203 : GOOD;
}
int curandSetStream(void*, void*) { return GOOD; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return GOOD; }
int curandDestroyGenerator(void*) { return GOOD; }

}  // extern "C"
