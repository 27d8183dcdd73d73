// Bias and the exact GELU, forward and backward: see `ops/gelu.rs`.

#include "element.cuh"

constexpr int MOST_THREADS = 128, LEAST_BLOCKS = 12;

__device__ inline float cumulative(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

__device__ inline float gelu(float x) { return x * cumulative(x); }

__device__ inline float gelu_slope(float x) {
    return cumulative(x) + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

// Four columns a thread; `gridDim.y` blocks share a row.
template <class T>
__device__ void forward(const T* u, const float* bias, T* a, int width) {
    const int column = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (column >= width) return;
    const size_t at = static_cast<size_t>(blockIdx.x) * width + column;
    const float4 x = load4(u + at) + load4(bias + column);
    store4(a + at, make_float4(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w)));
}

// One block of tokens; four columns a thread, token by token.
template <class T>
__device__ void backward(const T* u, const float* bias, T* gradient, float* partials, const int* blocks, int width) {
    const int column = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (column >= width) return;
    const float4 shift = load4(bias + column);
    float4 sum = all4(0.0f);
    for (int token = blocks[blockIdx.x]; token < blocks[blockIdx.x + 1]; token++) {
        const size_t at = static_cast<size_t>(token) * width + column;
        const float4 x = load4(u + at) + shift;
        const float4 slope = make_float4(gelu_slope(x.x), gelu_slope(x.y), gelu_slope(x.z), gelu_slope(x.w));
        const float4 du = load4(gradient + at) * slope;
        store4(gradient + at, du);
        sum = sum + du;
    }
    store4(partials + static_cast<size_t>(blockIdx.x) * width + column, sum);
}

#define FORWARD(T, S) \
    KERNEL(gelu_forward_##S, (const T* u, const float* bias, T* a, int width)) { forward(u, bias, a, width); }
EACH_ELEMENT(FORWARD)

#define BACKWARD(T, S)                                                                                                  \
    KERNEL(gelu_backward_##S,                                                                                           \
           (const T* u, const float* bias, T* gradient, float* partials, const int* blocks, int width)) {               \
        backward(u, bias, gradient, partials, blocks, width);                                                           \
    }
EACH_ELEMENT(BACKWARD)
