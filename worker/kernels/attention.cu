// Attention within each sequence and head, forward and backward: see `ops/attention.rs`. What matrix units can compute,
// `matrix_attention.cu` does.
//
// A block computes TILE rows (queries; for the gradients of keys and values, keys) of one sequence and head, each warp
// ROWS of them, against all columns of the sequence (keys; queries), COLUMNS at a time: a lane is a column while the
// products of a row and a column are taken, and a run of the head's elements while they are summed. The softmax is
// computed on the way (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
// "FlashAttention", 2022): memory is linear in the length. No atomics: a sequence's bits do not depend on the others.

#include "attention.cuh"

constexpr int COLUMNS = WARP;
constexpr int ROWS = 4;
constexpr int WARPS = 4;
constexpr int TILE = ROWS * WARPS;
constexpr int MOST_THREADS = WARPS * WARP, LEAST_BLOCKS = 4;

// Reads `count` rows of the head, from row `start` on and each `width` elements after the last, into rows of `stride`
// elements; rows from `known` on become 0. All threads of the block take part.
template <class T>
__device__ void gather(const T* from, int start, int known, int width, int size, float* to, int stride, int count) {
    const int quads = size / 4;
    for (int i = threadIdx.x; i < count * quads; i += blockDim.x) {
        const int row = i / quads, column = 4 * (i % quads);
        const size_t at = static_cast<size_t>(start + row) * width + column;
        store4(to + row * stride + column, row < known ? load4(from + at) : all4(0.0f));
    }
}

// The same of the keys and the values of COLUMNS tokens, values behind keys.
template <class T>
__device__ void gather_pairs(const T* kv, int start, int known, const Head& head, float* keys, int stride) {
    const T* from = kv + head.column();
    gather(from, start, known, head.pair_width, head.size, keys, stride, COLUMNS);
    gather(from + head.hidden(), start, known, head.pair_width, head.size, keys + COLUMNS * stride, stride, COLUMNS);
}

// For each of the warp's rows, its product with this lane's column.
__device__ inline void products(const float* rows, const float* column, int size, float result[ROWS]) {
    for (int r = 0; r < ROWS; r++) result[r] = 0.0f;
    for (int c = 0; c < size; c += 4) {
        const float4 other = load4(column + c);
        for (int r = 0; r < ROWS; r++) result[r] += dot(load4(rows + r * size + c), other);
    }
}

// sums[row] += Σ_column weights[row][column] columns[column], this lane's elements of it.
template <int PER_LANE>
__device__ void accumulate(const float* weights, const float* columns, int stride, int size,
                           float sums[ROWS][PER_LANE]) {
    const int lane = threadIdx.x % WARP;
    for (int j = 0; j < COLUMNS; j += 4) {
        float4 weight[ROWS];
        for (int r = 0; r < ROWS; r++) weight[r] = load4(weights + r * COLUMNS + j);
        for (int i = 0; i < PER_LANE; i++) {
            const int c = lane + WARP * i;
            if (c >= size) break;
            const float4 value = make_float4(columns[j * stride + c], columns[(j + 1) * stride + c],
                                             columns[(j + 2) * stride + c], columns[(j + 3) * stride + c]);
            for (int r = 0; r < ROWS; r++) sums[r][i] += dot(weight[r], value);
        }
    }
}

template <class T, int PER_LANE>
__device__ void write_row(T* to, const float sums[PER_LANE], int size, float scale) {
    for (int i = 0; i < PER_LANE; i++) {
        const int c = threadIdx.x % WARP + WARP * i;
        if (c < size) store(to + c, sums[i] * scale);
    }
}

template <class T, int PER_LANE>
__device__ void forward(const T* q, const T* kv, T* context, float* stats, Tile tile, const int* data_rows, Head head,
                        Dropout dropout) {
    SHARED(shared);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, stride = head.size + 4, hidden = head.hidden();
    float* keys = shared;
    float* values = keys + COLUMNS * stride;
    float* queries = values + COLUMNS * stride;
    float* weights = queries + TILE * head.size + warp * ROWS * COLUMNS;
    const Mask mask(dropout, data_rows[tile.sequence]);

    gather(q + head.column(), tile.query_start + tile.first, tile.queries - tile.first, head.query_width, head.size,
           queries, head.size, TILE);
    float most[ROWS], sum[ROWS], sums[ROWS][PER_LANE];
    for (int r = 0; r < ROWS; r++) {
        most[r] = -INFINITY;
        sum[r] = 0.0f;
        for (int i = 0; i < PER_LANE; i++) sums[r][i] = 0.0f;
    }
    for (int start = 0; start < tile.keys; start += COLUMNS) {
        __syncthreads();
        const int known = tile.keys - start;
        gather_pairs(kv, tile.key_start + start, known, head, keys, stride);
        __syncthreads();
        float score[ROWS];
        products(queries + warp * ROWS * head.size, keys + lane * stride, head.size, score);
        for (int r = 0; r < ROWS; r++) {
            const int query = tile.first + warp * ROWS + r, key = start + lane;
            const float value = key < tile.keys ? score[r] * head.scale : -INFINITY;
            const float highest = fmaxf(most[r], warp_max(value));
            const float correction = expf(most[r] - highest), weight = expf(value - highest);
            most[r] = highest;
            sum[r] = sum[r] * correction + warp_sum(weight);
            for (int i = 0; i < PER_LANE; i++) sums[r][i] *= correction;
            const unsigned element = (static_cast<unsigned>(head.index) * tile.keys + query) * tile.keys + key;
            weights[r * COLUMNS + lane] = weight * mask.factor(element);
        }
        __syncwarp();
        accumulate<PER_LANE>(weights, values, stride, head.size, sums);
    }
    for (int r = 0; r < ROWS; r++) {
        const int query = tile.first + warp * ROWS + r;
        if (query >= tile.queries) break;
        const float inverse = 1.0f / sum[r];
        T* to = context + static_cast<size_t>(tile.query_start + query) * hidden + head.column();
        write_row<T, PER_LANE>(to, sums[r], head.size, inverse);
        if (lane == 0) {
            const size_t place = head.statistic(tile, query);
            stats[2 * place] = most[r];
            stats[2 * place + 1] = inverse;
        }
    }
}

// Σ_j P dP of a query, which is the product of its context with the context's gradient; for the whole warp.
template <class T>
__device__ float gradient_mean(const T* context, const float* dcontext, int size) {
    float mean = 0.0f;
    for (int c = threadIdx.x % WARP; c < size; c += WARP) mean += load(context + c) * dcontext[c];
    return warp_sum(mean);
}

template <class T, int PER_LANE>
__device__ void query_gradient(const T* q, const T* kv, const T* context, const float* stats, const T* dcontext, T* dq,
                               Tile tile, const int* data_rows, Head head, Dropout dropout) {
    SHARED(shared);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, stride = head.size + 4, hidden = head.hidden();
    float* keys = shared;
    float* values = keys + COLUMNS * stride;
    float* queries = values + COLUMNS * stride;
    float* gradients = queries + TILE * head.size;
    float* weights = gradients + TILE * head.size + warp * ROWS * COLUMNS;
    const Mask mask(dropout, data_rows[tile.sequence]);
    const int first = tile.query_start + tile.first, rest = tile.queries - tile.first;
    gather(q + head.column(), first, rest, head.query_width, head.size, queries, head.size, TILE);
    gather(dcontext + head.column(), first, rest, hidden, head.size, gradients, head.size, TILE);
    __syncthreads();
    float softmax[ROWS][2], mean[ROWS], sums[ROWS][PER_LANE];
    for (int r = 0; r < ROWS; r++) {
        const int row = warp * ROWS + r, query = min(tile.first + row, tile.queries - 1);
        const size_t place = head.statistic(tile, query);
        softmax[r][0] = stats[2 * place];
        softmax[r][1] = stats[2 * place + 1];
        const T* output = context + static_cast<size_t>(tile.query_start + query) * hidden + head.column();
        mean[r] = gradient_mean(output, gradients + row * head.size, head.size);
        for (int i = 0; i < PER_LANE; i++) sums[r][i] = 0.0f;
    }
    for (int start = 0; start < tile.keys; start += COLUMNS) {
        __syncthreads();
        const int known = tile.keys - start;
        gather_pairs(kv, tile.key_start + start, known, head, keys, stride);
        __syncthreads();
        float score[ROWS], dprobability[ROWS];
        products(queries + warp * ROWS * head.size, keys + lane * stride, head.size, score);
        products(gradients + warp * ROWS * head.size, values + lane * stride, head.size, dprobability);
        for (int r = 0; r < ROWS; r++) {
            const int query = tile.first + warp * ROWS + r, key = start + lane;
            const unsigned element = (static_cast<unsigned>(head.index) * tile.keys + query) * tile.keys + key;
            const Pair found = pair(score[r] * head.scale, dprobability[r], mask.factor(element), softmax[r], mean[r]);
            weights[r * COLUMNS + lane] = key < tile.keys && query < tile.queries ? found.gradient : 0.0f;
        }
        __syncwarp();
        accumulate<PER_LANE>(weights, keys, stride, head.size, sums);
    }
    for (int r = 0; r < ROWS; r++) {
        const int query = tile.first + warp * ROWS + r;
        if (query >= tile.queries) break;
        T* to = dq + static_cast<size_t>(tile.query_start + query) * head.query_width + head.column();
        write_row<T, PER_LANE>(to, sums[r], head.size, head.scale);
    }
}

// The tile's rows are keys, its columns queries.
template <class T, int PER_LANE>
__device__ void key_value_gradient(const T* q, const T* kv, const T* context, const float* stats, const T* dcontext,
                                   T* dkv, Tile tile, const int* data_rows, Head head, Dropout dropout) {
    SHARED(shared);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, stride = head.size + 4, hidden = head.hidden();
    float* queries = shared;
    float* gradients = queries + COLUMNS * stride;
    float* keys = gradients + COLUMNS * stride;
    float* values = keys + TILE * head.size;
    float* means = values + TILE * head.size;
    float* dropped = means + COLUMNS + warp * 2 * ROWS * COLUMNS;
    float* scores = dropped + ROWS * COLUMNS;
    const Mask mask(dropout, data_rows[tile.sequence]);
    const int first = tile.key_start + tile.first, rest = tile.keys - tile.first;
    gather(kv + head.column(), first, rest, head.pair_width, head.size, keys, head.size, TILE);
    gather(kv + hidden + head.column(), first, rest, head.pair_width, head.size, values, head.size, TILE);
    float dkey[ROWS][PER_LANE], dvalue[ROWS][PER_LANE];
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < PER_LANE; i++) dkey[r][i] = dvalue[r][i] = 0.0f;
    }
    for (int start = 0; start < tile.queries; start += COLUMNS) {
        __syncthreads();
        const int from = tile.query_start + start, known = tile.queries - start;
        gather(q + head.column(), from, known, head.query_width, head.size, queries, stride, COLUMNS);
        gather(dcontext + head.column(), from, known, hidden, head.size, gradients, stride, COLUMNS);
        __syncthreads();
        for (int column = warp; column < min(COLUMNS, known); column += WARPS) {
            const T* output = context + static_cast<size_t>(from + column) * hidden + head.column();
            const float mean = gradient_mean(output, gradients + column * stride, head.size);
            if (lane == 0) means[column] = mean;
        }
        __syncthreads();
        float score[ROWS], dprobability[ROWS];
        products(keys + warp * ROWS * head.size, queries + lane * stride, head.size, score);
        products(values + warp * ROWS * head.size, gradients + lane * stride, head.size, dprobability);
        const int query = min(start + lane, tile.queries - 1);
        const size_t place = head.statistic(tile, query);
        const float softmax[2] = {stats[2 * place], stats[2 * place + 1]};
        const float mean = means[query - start];
        for (int r = 0; r < ROWS; r++) {
            const int key = tile.first + warp * ROWS + r;
            const unsigned element = (static_cast<unsigned>(head.index) * tile.keys + query) * tile.keys + key;
            const Pair found = pair(score[r] * head.scale, dprobability[r], mask.factor(element), softmax, mean);
            const bool exists = start + lane < tile.queries && key < tile.keys;
            dropped[r * COLUMNS + lane] = exists ? found.dropped : 0.0f;
            scores[r * COLUMNS + lane] = exists ? found.gradient : 0.0f;
        }
        __syncwarp();
        accumulate<PER_LANE>(dropped, gradients, stride, head.size, dvalue);
        accumulate<PER_LANE>(scores, queries, stride, head.size, dkey);
    }
    for (int r = 0; r < ROWS; r++) {
        const int key = tile.first + warp * ROWS + r;
        if (key >= tile.keys) break;
        T* to = dkv + static_cast<size_t>(tile.key_start + key) * head.pair_width + head.column();
        write_row<T, PER_LANE>(to, dkey[r], head.size, head.scale);
        write_row<T, PER_LANE>(to + hidden, dvalue[r], head.size, 1.0f);
    }
}

// Elements of a head for each lane: heads of up to 32, 64 and 128 elements.
#define BY_SIZE(function, ...)                                   \
    if (size <= WARP) function<ELEMENT, 1>(__VA_ARGS__);         \
    else if (size <= 2 * WARP) function<ELEMENT, 2>(__VA_ARGS__); \
    else function<ELEMENT, 4>(__VA_ARGS__);

#define ATTENTION(T, S)                                                                                                 \
    KERNEL(attention_forward_##S,                                                                                       \
           (const T* q, const T* kv, T* context, float* stats, const int* tiles, const int* query_offsets,              \
            const int* key_offsets, const int* rows, int heads, int size, float scale, int query_width,                 \
            int pair_width, Drop drop)) {                                                                               \
        using ELEMENT = T;                                                                                              \
        if (!has_tile(tiles)) return;                                                                                   \
        const Tile tile(tiles, query_offsets, key_offsets);                                                             \
        const Head head{static_cast<int>(blockIdx.y), heads, size, scale, query_width, pair_width};                     \
        BY_SIZE(forward, q, kv, context, stats, tile, rows, head, Dropout(drop))                                        \
    }                                                                                                                   \
    KERNEL(attention_query_gradient_##S,                                                                                \
           (const T* q, const T* kv, const T* context, const float* stats, const T* dcontext, T* dq, const int* tiles,  \
            const int* query_offsets, const int* key_offsets, const int* rows, int heads, int size, float scale,        \
            int query_width, int pair_width, Drop drop)) {                                                              \
        using ELEMENT = T;                                                                                              \
        if (!has_tile(tiles)) return;                                                                                   \
        const Tile tile(tiles, query_offsets, key_offsets);                                                             \
        const Head head{static_cast<int>(blockIdx.y), heads, size, scale, query_width, pair_width};                     \
        BY_SIZE(query_gradient, q, kv, context, stats, dcontext, dq, tile, rows, head, Dropout(drop))                   \
    }                                                                                                                   \
    KERNEL(attention_key_value_gradient_##S,                                                                            \
           (const T* q, const T* kv, const T* context, const float* stats, const T* dcontext, T* dkv, const int* tiles, \
            const int* query_offsets, const int* key_offsets, const int* rows, int heads, int size, float scale,        \
            int query_width, int pair_width, Drop drop)) {                                                              \
        using ELEMENT = T;                                                                                              \
        if (!has_tile(tiles)) return;                                                                                   \
        const Tile tile(tiles, query_offsets, key_offsets);                                                             \
        const Head head{static_cast<int>(blockIdx.y), heads, size, scale, query_width, pair_width};                     \
        BY_SIZE(key_value_gradient, q, kv, context, stats, dcontext, dkv, tile, rows, head,                             \
                Dropout(drop))                                                                                          \
    }
EACH_ELEMENT(ATTENTION)
