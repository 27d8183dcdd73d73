// Embeddings: rows gathered and normed, and gradients of rows summed: see `ops/embedding.rs`.

#include "row_norm.cuh"

constexpr int MOST_THREADS = 512, LEAST_BLOCKS = 2;

// The parameters are f32 masters: a gather reads each row once, so a copy would save nothing.
struct Tables {
    const float* words;
    const float* positions;
    const float* types;
};

// One token a warp.
template <class T>
__device__ void forward(Tables tables, Norm norm, T* z, float* stats, T* y, const int* words, const int* types,
                        Places places, Dropout dropout, int tokens, int width) {
    SHARED(rows);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int token = blockIdx.x * (blockDim.x / WARP) + warp;
    if (token >= tokens) return;
    float* row = rows + warp * width;
    const float* word = tables.words + static_cast<size_t>(words[token]) * width;
    const float* position = tables.positions + static_cast<size_t>(places.positions[token]) * width;
    const float* type = tables.types + static_cast<size_t>(types[token]) * width;
    const size_t start = static_cast<size_t>(token) * width;
    float partial = 0.0f;
    for (int column = 4 * lane; column < width; column += 4 * WARP) {
        const float4 sum = load4(word + column) + load4(type + column) + load4(position + column);
        const float4 kept = rounded4<T>(sum);
        store4(z + start + column, kept);
        store4(row + column, kept);
        partial += total(kept);
    }
    const float2 moments = row_stats(row, partial, width, norm.epsilon);
    const Mask mask = places.mask(dropout, token);
    const unsigned first = places.first(token, width);
    for (int column = 4 * lane; column < width; column += 4 * WARP) {
        const float4 x = moments.y * (load4(row + column) - all4(moments.x));
        const float4 normal = x * load4(norm.gamma + column) + load4(norm.beta + column);
        store4(y + start + column, normal * mask.factor4(first + column));
    }
    if (lane == 0) {
        stats[2 * token] = moments.x;
        stats[2 * token + 1] = moments.y;
    }
}

// One block of tokens: first each token's means by a warp, then four columns a thread, token by token.
template <class T>
__device__ void backward(const T* dy, const T* z, const float* stats, const float* gamma, T* dz, float* partials,
                         const int* types, int type_count, const int* blocks, Places places, Dropout dropout, int width) {
    SHARED(shared);
    float2* means = reinterpret_cast<float2*>(shared);
    const int begin = blocks[blockIdx.x], end = blocks[blockIdx.x + 1];
    gradient_means(dy, z, stats, gamma, places, dropout, begin, end, width, means);
    __syncthreads();
    for (int column = 4 * threadIdx.x; column < width; column += 4 * blockDim.x) {
        const float4 weight = load4(gamma + column);
        float* sums = partials + static_cast<size_t>(blockIdx.x) * (type_count + 2) * width + column;
        float4 dgamma = all4(0.0f), dbeta = all4(0.0f);
        for (int token = begin; token < end; token++) {
            const size_t at = static_cast<size_t>(token) * width + column;
            const float scale = stats[2 * token + 1];
            const float4 x = scale * (load4(z + at) - all4(stats[2 * token]));
            const Mask mask = places.mask(dropout, token);
            const float4 gradient = load4(dy + at) * mask.factor4(places.first(token, width) + column);
            const float2 mean = means[token - begin];
            store4(dz + at, scale * (gradient * weight - all4(mean.x) - mean.y * x));
            dgamma = dgamma + gradient * x;
            dbeta = dbeta + gradient;
        }
        for (int type = 0; type < type_count; type++) {
            float4 dtype = all4(0.0f);
            for (int token = begin; token < end; token++) {
                // What this thread has just written.
                if (types[token] == type) dtype = dtype + load4(dz + static_cast<size_t>(token) * width + column);
            }
            store4(sums + static_cast<size_t>(type) * width, dtype);
        }
        store4(sums + static_cast<size_t>(type_count) * width, dgamma);
        store4(sums + static_cast<size_t>(type_count + 1) * width, dbeta);
    }
}

// One position a block: the sum over the sequences of a lane that are long enough, in their order.
template <class T>
__device__ void position_gradient(const T* dz, const int* offsets, int first, int last, float* dpositions, int width) {
    const int position = blockIdx.x;
    for (int column = 4 * threadIdx.x; column < width; column += 4 * blockDim.x) {
        float4 sum = all4(0.0f);
        for (int sequence = first; sequence < last; sequence++) {
            const int token = offsets[sequence] + position;
            if (token < offsets[sequence + 1]) sum = sum + load4(dz + static_cast<size_t>(token) * width + column);
        }
        store4(dpositions + static_cast<size_t>(position) * width + column, sum);
    }
}

// One word a block: the sum over its tokens, `tokens[starts[word]..starts[word + 1]]`, in their order.
template <class T>
__device__ void word_gradient(const T* dz, const int* starts, const int* tokens, float* values, int width) {
    for (int column = 4 * threadIdx.x; column < width; column += 4 * blockDim.x) {
        float4 sum = all4(0.0f);
        for (int place = starts[blockIdx.x]; place < starts[blockIdx.x + 1]; place++) {
            sum = sum + load4(dz + static_cast<size_t>(tokens[place]) * width + column);
        }
        store4(values + static_cast<size_t>(blockIdx.x) * width + column, sum);
    }
}

#define FORWARD(T, S)                                                                                                   \
    KERNEL(embedding_forward_##S,                                                                                       \
           (const float* words, const float* positions, const float* types, const float* gamma, const float* beta,      \
            float epsilon, T* z, float* stats, T* y, const int* token_words, const int* token_types,                    \
            const int* token_positions, const int* sequences, const int* rows, Drop drop, int tokens, int width)) {     \
        forward(Tables{words, positions, types}, Norm{gamma, beta, epsilon}, z, stats, y, token_words, token_types,     \
                Places{token_positions, sequences, rows}, Dropout(drop), tokens, width);                                \
    }
EACH_ELEMENT(FORWARD)

#define BACKWARD(T, S)                                                                                                  \
    KERNEL(embedding_backward_##S,                                                                                      \
           (const T* dy, const T* z, const float* stats, const float* gamma, T* dz, float* partials, const int* types,  \
            int type_count, const int* blocks, const int* positions, const int* sequences, const int* rows,             \
            Drop drop, int width)) {                                                                                    \
        backward(dy, z, stats, gamma, dz, partials, types, type_count, blocks, Places{positions, sequences, rows},      \
                 Dropout(drop), width);                                                                                 \
    }
EACH_ELEMENT(BACKWARD)

#define POSITIONS(T, S)                                                                                                 \
    KERNEL(position_gradient_##S,                                                                                       \
           (const T* dz, const int* offsets, int first, int last, float* dpositions, int width)) {                      \
        position_gradient(dz, offsets, first, last, dpositions, width);                                                 \
    }
EACH_ELEMENT(POSITIONS)

#define WORDS(T, S)                                                                                                     \
    KERNEL(word_gradient_##S, (const T* dz, const int* starts, const int* tokens, float* values, int width)) {          \
        word_gradient(dz, starts, tokens, values, width);                                                               \
    }
EACH_ELEMENT(WORDS)
