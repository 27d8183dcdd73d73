// Sums and copies of long runs of elements. Orders depend on the lengths alone.

#include "runs.cuh"

constexpr int MOST_THREADS = 256, LEAST_BLOCKS = 4;

__device__ inline long long first_index() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline long long index_step() { return static_cast<long long>(gridDim.x) * blockDim.x; }

KERNEL(add_f32, (float* into, const float* from, long long count)) {
    for (long long i = first_index(); i < count; i += index_step()) into[i] += from[i];
}

__device__ inline double add_square(double sum, double value) { return sum + value * value; }

// One sum a block, in f64: no square of an f32 overflows. A run's flags are the elements of each of its pieces, a block for
// each. Threads take four elements after the other, in one access where the run lies so.
KERNEL(square_sum_f32, (const Run* runs, int known, double* sums)) {
    SHARED(shared);
    double* partial = reinterpret_cast<double*>(shared);
    const Run run = run_of_block(runs, known);
    const long long piece = static_cast<long long>(run.flags);
    const long long first = (static_cast<long long>(blockIdx.x) - run.first_block) * piece;
    const long long end = min(first + piece, run.count);
    const bool is_wide = is_aligned4(run.values);
    double sum = 0.0;
    for (long long i = first + 4 * threadIdx.x; i < end; i += 4 * blockDim.x) {
        if (is_wide && i + 4 <= end) {
            const float4 four = load4(run.values + i);
            sum = add_square(add_square(add_square(add_square(sum, four.x), four.y), four.z), four.w);
        } else {
            for (long long j = i; j < min(i + 4, end); j++) sum = add_square(sum, run.values[j]);
        }
    }
    partial[threadIdx.x] = sum;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];
}

// `values[row] = left[places[2 row]] + right[places[2 row + 1]]`; a place below 0 adds nothing, which is -0: it changes no
// number, not even another -0.
KERNEL(merge_rows_f32, (const float* left, const float* right, const int* places, float* values, int width)) {
    const int l = places[2 * blockIdx.x], r = places[2 * blockIdx.x + 1];
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        float sum = l < 0 ? -0.0f : left[static_cast<size_t>(l) * width + column];
        if (r >= 0) sum += right[static_cast<size_t>(r) * width + column];
        values[static_cast<size_t>(blockIdx.x) * width + column] = sum;
    }
}

// `dense[rows[i]] = values[i]`; rows that are not named stay as they are.
KERNEL(scatter_rows_f32, (const float* values, const int* rows, float* dense, int width)) {
    float* to = dense + static_cast<size_t>(rows[blockIdx.x]) * width;
    const float* from = values + static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) to[column] = from[column];
}

template <class T>
__device__ void narrow(const float* from, T* to, long long count) {
    for (long long i = first_index(); i < count; i += index_step()) store(to + i, from[i]);
}

template <class T>
__device__ void widen(const T* from, float* to, long long count) {
    for (long long i = first_index(); i < count; i += index_step()) to[i] = load(from + i);
}

#define COPIES(T, S)                                                                                                    \
    KERNEL(narrow_##S, (const float* from, T* to, long long count)) { narrow(from, to, count); }                        \
    KERNEL(widen_##S, (const T* from, float* to, long long count)) { widen(from, to, count); }
EACH_ELEMENT(COPIES)
