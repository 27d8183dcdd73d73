// Stands in for libcublas.so.13 and libcurand.so.10: products as the worker asks for them, and a generator that is never
// asked for a number.

#include "device.h"

using namespace rehearsal;

namespace {

enum : int { GOOD = 0, NOT_READY_YET = 1, BAD_VALUE = 7, NOT_SUPPORTED = 15 };
enum : int { F32 = 0, F16 = 2, BF16 = 14 };
enum : int { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };

struct Handle {
    void* stream = nullptr;
};

size_t bytes(int kind) { return kind == F32 ? 4 : 2; }

float load(const char* matrix, int kind, size_t at) {
    if (kind == F32) return reinterpret_cast<const float*>(matrix)[at];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(matrix)[at];
    if (kind == BF16) return from_bf16(bits);
    _Float16 half;
    __builtin_memcpy(&half, &bits, 2);
    return static_cast<float>(half);
}

void store(char* matrix, int kind, size_t at, float value) {
    if (kind == F32) {
        reinterpret_cast<float*>(matrix)[at] = value;
        return;
    }
    uint16_t bits = to_bf16(value);
    const _Float16 half = static_cast<_Float16>(value);
    if (kind == F16) __builtin_memcpy(&bits, &half, 2);
    reinterpret_cast<uint16_t*>(matrix)[at] = bits;
}

// A column-major matrix.
struct Matrix {
    const char* start;
    int kind, leading;
    bool transposed;

    float at(int row, int column) const {
        const size_t at = transposed ? static_cast<size_t>(row) * leading + column : static_cast<size_t>(column) * leading + row;
        return load(start, kind, at);
    }

    // Its elements row by row, and column by column.
    std::vector<float> rows(int count, int width) const {
        std::vector<float> all;
        all.reserve(static_cast<size_t>(count) * width + 1);
        for (int row = 0; row < count; row++)
            for (int column = 0; column < width; column++) all.push_back(at(row, column));
        return all;
    }
    std::vector<float> columns(int height, int count) const { return Matrix{start, kind, leading, !transposed}.rows(count, height); }

    bool fits(int rows) const {
        return leading >= rows && reinterpret_cast<uintptr_t>(start) % bytes(kind) == 0;
    }
};

}  // namespace

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

int cublasSetStream_v2(Handle* handle, void* stream) {
    handle->stream = stream;
    return GOOD;
}

int cublasSetWorkspace_v2(Handle* handle, void* place, size_t) {
    const bool is_good = handle->stream != nullptr && place != nullptr && reinterpret_cast<uintptr_t>(place) % 256 == 0;
    return is_good ? GOOD : BAD_VALUE;
}

int cublasSetMathMode(Handle*, int mode) { return mode == 16 ? GOOD : BAD_VALUE; }

int cublasGetProperty(int property, int* value) {
    *value = property == 0 ? 13 : 0;
    return GOOD;
}

int cublasGemmEx(Handle* handle, int first, int second, int m, int n, int k, const float* alpha, const char* a, int a_kind,
                 int lda, const char* b, int b_kind, int ldb, const float* beta, char* c, int c_kind, int ldc, int compute,
                 int) {
    if (context() == nullptr) return NOT_READY_YET;
    const Matrix left{a, a_kind, lda, first == 1}, right{b, b_kind, ldb, second == 1}, sum{c, c_kind, ldc, false};
    if (m < 0 || n < 0 || k < 0 || !left.fits(first == 1 ? k : m) || !right.fits(second == 1 ? n : k) || !sum.fits(m)) {
        return BAD_VALUE;
    }
    const bool is_wide = a_kind == F32 && c_kind == F32 && (compute == COMPUTE_32F || compute == COMPUTE_32F_FAST_TF32);
    const bool is_narrow = a_kind != F32 && (c_kind == a_kind || c_kind == F32) && compute == COMPUTE_32F;
    if (a_kind != b_kind || !(is_wide || is_narrow)) return NOT_SUPPORTED;
    const float scale = *alpha, before = *beta;
    enqueue(handle->stream, [=] {
        const std::vector<float> rows = left.rows(m, k), columns = right.columns(k, n);
        for (int column = 0; column < n; column++) {
            for (int row = 0; row < m; row++) {
                const float *x = &rows[static_cast<size_t>(row) * k], *y = &columns[static_cast<size_t>(column) * k];
                double total = 0.0;
                for (int i = 0; i < k; i++) total += static_cast<double>(x[i]) * y[i];
                const size_t at = static_cast<size_t>(column) * ldc + row;
                // As in cuBLAS, what is there is not read where nothing of it is wanted.
                const float old = before == 0.0f ? 0.0f : before * load(c, c_kind, at);
                store(c, c_kind, at, static_cast<float>(scale * total) + old);
            }
        }
        return true;
    });
    return GOOD;
}

int curandCreateGenerator(void** generator, int) {
    *generator = generator;
    return context() == nullptr ? 203 : GOOD;
}
int curandSetStream(void*, void*) { return GOOD; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return GOOD; }
int curandDestroyGenerator(void*) { return GOOD; }

}  // extern "C"
