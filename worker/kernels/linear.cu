// What stands around a product, where cuBLASLt does not do it with that: the bias before it, sums over rows after it. See
// `ops/linear.rs`.

#include "element.cuh"

constexpr int MOST_THREADS = 512, LEAST_BLOCKS = 2;

// `y[row] = bias`; the product is then added.
template <class T>
__device__ void bias_rows(const float* bias, T* y, int width) {
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) store(y + start + column, bias[column]);
}

// 32 columns a block: each warp adds every n-th row, then the first warp adds the warps' sums in their order. The order
// depends on the number of rows alone.
template <class T>
__device__ void column_sum(const T* x, float* sum, int rows, int width) {
    SHARED(partial);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const int column = blockIdx.x * WARP + lane;
    float total = 0.0f;
    if (column < width) {
        for (int row = warp; row < rows; row += warps) total += load(x + static_cast<size_t>(row) * width + column);
    }
    partial[warp * WARP + lane] = total;
    __syncthreads();
    if (warp > 0 || column >= width) return;
    total = 0.0f;
    for (int other = 0; other < warps; other++) total += partial[other * WARP + lane];
    sum[column] = total;
}

#define LINEAR(T, S)                                                                                                    \
    KERNEL(bias_rows_##S, (const float* bias, T* y, int width)) { bias_rows(bias, y, width); }                          \
    KERNEL(column_sum_##S, (const T* x, float* sum, int rows, int width)) { column_sum(x, sum, rows, width); }
EACH_ELEMENT(LINEAR)
