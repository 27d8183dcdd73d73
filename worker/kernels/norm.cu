// Dropout, residual connection and layer norm, forward and backward: see `ops/norm.rs`.

#include "row_norm.cuh"

constexpr int MOST_THREADS = 512, LEAST_BLOCKS = 2;

// One token a warp.
template <class T>
__device__ void forward(T* z, const float* bias, const T* residual, Norm norm, float* stats, T* y, Places places,
                        Dropout dropout, int tokens, int width) {
    SHARED(rows);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int token = blockIdx.x * (blockDim.x / WARP) + warp;
    if (token >= tokens) return;
    float* row = rows + warp * width;
    const Mask mask = places.mask(dropout, token);
    const unsigned first = places.first(token, width);
    const size_t start = static_cast<size_t>(token) * width;
    float partial = 0.0f;
    for (int column = 4 * lane; column < width; column += 4 * WARP) {
        const float4 dense = load4(z + start + column) + load4(bias + column);
        const float4 sum = dense * mask.factor4(first + column) + load4(residual + start + column);
        const float4 kept = rounded4<T>(sum);
        store4(z + start + column, kept);
        store4(row + column, kept);
        partial += total(kept);
    }
    const float2 moments = row_stats(row, partial, width, norm.epsilon);
    for (int column = 4 * lane; column < width; column += 4 * WARP) {
        const float4 x = moments.y * (load4(row + column) - all4(moments.x));
        store4(y + start + column, x * load4(norm.gamma + column) + load4(norm.beta + column));
    }
    if (lane == 0) {
        stats[2 * token] = moments.x;
        stats[2 * token + 1] = moments.y;
    }
}

// One block of tokens: first each token's means by a warp, then four columns a thread, token by token.
template <class T>
__device__ void backward(const T* dy, const T* z, const float* stats, const float* gamma, T* dz, T* du, float* partials,
                         const int* blocks, Places places, Dropout dropout, int width) {
    SHARED(shared);
    float2* means = reinterpret_cast<float2*>(shared);
    const int begin = blocks[blockIdx.x], end = blocks[blockIdx.x + 1];
    gradient_means(dy, z, stats, gamma, places, Dropout(), begin, end, width, means);
    __syncthreads();
    for (int column = 4 * threadIdx.x; column < width; column += 4 * blockDim.x) {
        const float4 weight = load4(gamma + column);
        float4 dbias = all4(0.0f), dgamma = all4(0.0f), dbeta = all4(0.0f);
        for (int token = begin; token < end; token++) {
            const size_t at = static_cast<size_t>(token) * width + column;
            const float scale = stats[2 * token + 1];
            const float4 x = scale * (load4(z + at) - all4(stats[2 * token]));
            const float4 gradient = load4(dy + at);
            const float2 mean = means[token - begin];
            const float4 inner = scale * (gradient * weight - all4(mean.x) - mean.y * x);
            const Mask mask = places.mask(dropout, token);
            const float4 dropped = inner * mask.factor4(places.first(token, width) + column);
            store4(dz + at, inner);
            store4(du + at, dropped);
            dbias = dbias + dropped;
            dgamma = dgamma + gradient * x;
            dbeta = dbeta + gradient;
        }
        float* sums = partials + static_cast<size_t>(blockIdx.x) * 3 * width + column;
        store4(sums, dbias);
        store4(sums + width, dgamma);
        store4(sums + 2 * width, dbeta);
    }
}

#define FORWARD(T, S)                                                                                                   \
    KERNEL(norm_forward_##S,                                                                                            \
           (T* z, const float* bias, const T* residual, const float* gamma, const float* beta, float epsilon,           \
            float* stats, T* y, const int* positions, const int* sequences, const int* rows, Drop drop, int tokens,     \
            int width)) {                                                                                               \
        forward(z, bias, residual, Norm{gamma, beta, epsilon}, stats, y, Places{positions, sequences, rows},            \
                Dropout(drop), tokens, width);                                                                          \
    }
EACH_ELEMENT(FORWARD)

#define BACKWARD(T, S)                                                                                                  \
    KERNEL(norm_backward_##S,                                                                                           \
           (const T* dy, const T* z, const float* stats, const float* gamma, T* dz, T* du, float* partials,             \
            const int* blocks, const int* positions, const int* sequences, const int* rows, Drop drop, int width)) {    \
        backward(dy, z, stats, gamma, dz, du, partials, blocks, Places{positions, sequences, rows},                     \
                 Dropout(drop), width);                                                                                 \
    }
EACH_ELEMENT(BACKWARD)
