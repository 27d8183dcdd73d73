// Stands in for libcublasLt.so.13: products as the worker asks for them, with a bias or its gradient. As there, an algorithm is
// one for the matrices that it was asked for, and there is none for some: here, with an epilogue, where a column has a number
// of elements that is no multiple of 8. Of each product's two algorithms so many are refused when they are to run, as
// REHEARSAL_REFUSED says; one of two where there is no epilogue.

#include <array>

#include "device.h"

using namespace rehearsal;

namespace {

enum : int { GOOD = 0, NOT_READY_YET = 1, BAD_VALUE = 7, NOT_SUPPORTED = 15 };
enum : int { F32 = 0, F16 = 2, BF16 = 14 };
enum : int { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };
enum : int { TRANSPOSE_A = 3, TRANSPOSE_B = 4, EPILOGUE = 7, VECTOR = 8 };
enum : unsigned { PLAIN = 1, BIAS = 4, BIAS_GRADIENT = 512 };
enum : int { WORKSPACE = 1, REDUCTIONS = 3, ALIGNMENT_A = 5, ALIGNMENT_D = 8 };

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

};


struct Operation {
    int compute, scale;
    int transposed[2] = {0, 0};
    unsigned epilogue = PLAIN;
    char* vector = nullptr;
};

struct Layout {
    int kind, rows, columns, leading;
};

struct Preference {
    size_t workspace = 0;
    unsigned reductions = 7;
    unsigned alignments[4] = {256, 256, 256, 256};
};

struct Algorithm {
    uint64_t words[8];
};

struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

const size_t LEAST_WORKSPACE = 4096;
const int ALGORITHMS = 2;

// What a product is, all but its addresses.
std::array<uint64_t, 6> kind_of(const Operation& operation, const Layout& a, const Layout& b, const Layout& c) {
    uint64_t kind = static_cast<unsigned>(operation.compute) * 1024u + operation.epilogue;
    kind = kind * 4 + static_cast<unsigned>(2 * operation.transposed[0] + operation.transposed[1]);
    const auto pair = [](int one, int other) { return static_cast<uint64_t>(one) << 32 | static_cast<unsigned>(other); };
    return {kind, pair(a.rows, a.columns), pair(a.leading, b.leading), pair(b.rows, b.columns), pair(c.rows, c.columns),
            pair(c.leading, 256 * a.kind + 16 * b.kind + c.kind)};
}

int check(const Operation& operation, const Layout& a, const Layout& b, const Layout& c) {
    const bool is_left = operation.transposed[0] == 1, is_right = operation.transposed[1] == 1;
    const int m = is_left ? a.columns : a.rows, k = is_left ? a.rows : a.columns;
    const int n = is_right ? b.rows : b.columns, other = is_right ? b.columns : b.rows;
    if (m <= 0 || n <= 0 || k <= 0 || k != other || m != c.rows || n != c.columns) return BAD_VALUE;
    if (a.leading < a.rows || b.leading < b.rows || c.leading < c.rows || operation.scale != F32) return BAD_VALUE;
    const bool is_wide = a.kind == F32 && c.kind == F32 && (operation.compute == COMPUTE_32F || operation.compute == COMPUTE_32F_FAST_TF32);
    const bool is_narrow = a.kind != F32 && (c.kind == a.kind || c.kind == F32) && operation.compute == COMPUTE_32F;
    if (a.kind != b.kind || !(is_wide || is_narrow)) return NOT_SUPPORTED;
    if (operation.epilogue == PLAIN) return GOOD;
    if (operation.epilogue != BIAS && operation.epilogue != BIAS_GRADIENT) misused("an epilogue that the worker does not ask for");
    if (operation.vector == nullptr) return BAD_VALUE;
    return m % 8 == 0 && n % 8 == 0 ? GOOD : NOT_SUPPORTED;
}

template <class T>
int set(T& value, const void* from, size_t size) {
    if (size != sizeof(T)) return BAD_VALUE;
    std::memcpy(&value, from, size);
    return GOOD;
}

}  // namespace

extern "C" {

int cublasLtGetProperty(int property, int* value) {
    *value = property == 0 ? 13 : 0;
    return GOOD;
}

int cublasLtCreate(void** handle) {
    if (context() == nullptr) return NOT_READY_YET;
    *handle = new char;
    return GOOD;
}

int cublasLtDestroy(void* handle) {
    delete static_cast<char*>(handle);
    return GOOD;
}

int cublasLtMatmulDescCreate(Operation** operation, int compute, int scale) {
    *operation = new Operation;
    (*operation)->compute = compute;
    (*operation)->scale = scale;
    return GOOD;
}

int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const void* value, size_t size) {
    switch (attribute) {
        case TRANSPOSE_A: return set(operation->transposed[0], value, size);
        case TRANSPOSE_B: return set(operation->transposed[1], value, size);
        case EPILOGUE: return set(operation->epilogue, value, size);
        case VECTOR: return set(operation->vector, value, size);
        default: misused("attribute " + std::to_string(attribute) + " of a product");
    }
}

int cublasLtMatmulDescDestroy(Operation* operation) {
    delete operation;
    return GOOD;
}

int cublasLtMatrixLayoutCreate(Layout** layout, int kind, uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = new Layout{kind, static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(leading)};
    return GOOD;
}

int cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return GOOD;
}

int cublasLtMatmulPreferenceCreate(Preference** preference) {
    *preference = new Preference;
    return GOOD;
}

int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t size) {
    if (attribute == WORKSPACE) return set(preference->workspace, value, size);
    if (attribute == REDUCTIONS) return set(preference->reductions, value, size);
    if (attribute < ALIGNMENT_A || attribute > ALIGNMENT_D) misused("a preference that the worker does not have");
    return set(preference->alignments[attribute - ALIGNMENT_A], value, size);
}

int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return GOOD;
}

int cublasLtMatmulAlgoGetHeuristic(void*, const Operation* operation, const Layout* a, const Layout* b, const Layout* c,
                                   const Layout* d, const Preference* preference, int asked, Found* found, int* count) {
    *count = 0;
    if (asked < 1 || c != d || preference->workspace < LEAST_WORKSPACE) return BAD_VALUE;
    // Sums in the kind of the result, or in an order that nobody knows, are none of the worker's.
    if (preference->reductions != 2) misused("a product whose parts may be added anyhow");
    if (const int code = check(*operation, *a, *b, *c)) return code;
    const auto kind = kind_of(*operation, *a, *b, *c);
    for (; *count < std::min(asked, ALGORITHMS); ++*count) {
        Found& one = found[*count] = Found{};
        std::copy(kind.begin(), kind.end(), one.algorithm.words);
        for (int i = 0; i < 4; i++) one.algorithm.words[6] |= static_cast<uint64_t>(preference->alignments[i]) << (16 * i);
        // As there, an address says how a vector is aligned before it is one.
        const auto vector = reinterpret_cast<uintptr_t>(operation->vector);
        one.algorithm.words[7] = (vector == 0 ? 1 : std::min<uint64_t>(vector & -vector, 256)) * ALGORITHMS + *count;
        one.workspace = LEAST_WORKSPACE;
    }
    return GOOD;
}

int cublasLtMatmul(void*, const Operation* operation, const float* alpha, const char* a, const Layout* a_layout, const char* b,
                   const Layout* b_layout, const float* beta, const char* c, const Layout* c_layout, char* d,
                   const Layout* d_layout, const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    if (context() == nullptr) return NOT_READY_YET;
    if (c != d || c_layout != d_layout || workspace == nullptr || workspace_bytes < LEAST_WORKSPACE) return BAD_VALUE;
    if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return BAD_VALUE;
    if (const int code = check(*operation, *a_layout, *b_layout, *c_layout)) return code;
    const auto kind = kind_of(*operation, *a_layout, *b_layout, *c_layout);
    if (!std::equal(kind.begin(), kind.end(), algorithm->words)) misused("an algorithm of another product");
    const int number = static_cast<int>(algorithm->words[7] % ALGORITHMS);
    if (number < std::min<long>(setting("REHEARSAL_REFUSED", 0), operation->epilogue == PLAIN ? 1 : ALGORITHMS)) return NOT_SUPPORTED;
    const char* places[4] = {a, b, c, d};
    const int kinds[4] = {a_layout->kind, b_layout->kind, c_layout->kind, d_layout->kind};
    for (int i = 0; i < 4; i++) {
        const uint64_t aligned = algorithm->words[6] >> (16 * i) & 0xffff;
        if (aligned < bytes(kinds[i]) || reinterpret_cast<uintptr_t>(places[i]) % aligned != 0) misused("a matrix that is not aligned as was said");
    }
    const Matrix left{a, a_layout->kind, a_layout->leading, operation->transposed[0] == 1};
    const Matrix right{b, b_layout->kind, b_layout->leading, operation->transposed[1] == 1};
    const int m = c_layout->rows, n = c_layout->columns, c_kind = c_layout->kind, ldc = c_layout->leading;
    const int k = left.transposed ? a_layout->rows : a_layout->columns;
    const float scale = *alpha, before = *beta;
    const unsigned epilogue = operation->epilogue;
    char* const vector = operation->vector;
    if (epilogue != PLAIN && reinterpret_cast<uintptr_t>(vector) % (algorithm->words[7] / ALGORITHMS) != 0) misused("a vector that is not aligned as was said");
    enqueue(stream, [=] {
        const std::vector<float> rows = left.rows(m, k), columns = right.columns(k, n);
        for (int column = 0; column < n; column++) {
            const float* y = &columns[static_cast<size_t>(column) * k];
            if (epilogue == BIAS_GRADIENT) {
                double total = 0.0;
                for (int i = 0; i < k; i++) total += y[i];
                store(vector, c_kind, static_cast<size_t>(column), static_cast<float>(total));
            }
            for (int row = 0; row < m; row++) {
                const float* x = &rows[static_cast<size_t>(row) * k];
                double total = 0.0;
                for (int i = 0; i < k; i++) total += static_cast<double>(x[i]) * y[i];
                const size_t at = static_cast<size_t>(column) * ldc + row;
                // As in cuBLASLt, what is there is not read where nothing of it is wanted.
                float sum = static_cast<float>(scale * total) + (before == 0.0f ? 0.0f : before * load(d, c_kind, at));
                if (epilogue == BIAS) sum += load(vector, c_kind, static_cast<size_t>(row));
                store(d, c_kind, at, sum);
            }
        }
        return true;
    });
    return GOOD;
}

}  // extern "C"
