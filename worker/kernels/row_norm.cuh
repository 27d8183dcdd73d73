// Layer norm of a row by a warp, and what its gradient needs: shared by the residual norm and the embedding.
#pragma once

#include "dropout.cuh"

// The tokens' data rows and places, by token and by sequence.
struct Places {
    const int* positions;
    const int* sequences;
    const int* rows;

    __device__ Mask mask(Dropout dropout, int token) const { return Mask(dropout, rows[sequences[token]]); }

    // The number of the token's first element in its mask.
    __device__ unsigned first(int token, int width) const { return static_cast<unsigned>(positions[token]) * width; }
};

struct Norm {
    const float* gamma;
    const float* beta;
    float epsilon;
};

// Mean and reciprocal standard deviation of the row that the lanes of a warp have put into `row`, each at the columns
// `4 lane + 128 i`, where it reads them again. Two passes: no cancellation.
__device__ inline float2 row_stats(const float* row, float partial, int width, float epsilon) {
    const int lane = threadIdx.x % WARP;
    const float mean = warp_sum(partial) / width;
    float squares = 0.0f;
    for (int column = 4 * lane; column < width; column += 4 * WARP) {
        const float4 centred = load4(row + column) - all4(mean);
        squares += dot(centred, centred);
    }
    return make_float2(mean, 1.0f / sqrtf(warp_sum(squares) / width + epsilon));
}

// For each token of a block, by one warp: the means of `g` and of `g x`, `g = dy gamma`, into `means`.
template <class T>
__device__ void gradient_means(const T* dy, const T* z, const float* stats, const float* gamma, Places places,
                               Dropout dropout, int begin, int end, int width, float2* means) {
    const int lane = threadIdx.x % WARP;
    for (int token = begin + threadIdx.x / WARP; token < end; token += blockDim.x / WARP) {
        const Mask mask = places.mask(dropout, token);
        const unsigned first = places.first(token, width);
        const float mean = stats[2 * token], scale = stats[2 * token + 1];
        float slope = 0.0f, curve = 0.0f;
        for (int column = 4 * lane; column < width; column += 4 * WARP) {
            const size_t at = static_cast<size_t>(token) * width + column;
            const float4 g = load4(dy + at) * mask.factor4(first + column) * load4(gamma + column);
            slope += total(g);
            curve += dot(g, scale * (load4(z + at) - all4(mean)));
        }
        slope = warp_sum(slope) / width;
        curve = warp_sum(curve) / width;
        if (lane == 0) means[token - begin] = make_float2(slope, curve);
    }
}
