// Attention of half-precision elements in heads of 32 or 64 by matrix units: see `ops/attention.rs`.
//
// A block computes 64 rows (queries; for the gradients of keys and values, keys) of one sequence and head, each warp 16
// of them, which it keeps in registers, against all columns of the sequence (keys; queries). These stand in shared memory:
// all at once, or `room` at a time where the sequence is longer. A warp takes 16 columns at a time, whatever the room is,
// so that a sequence's bits do not depend on the others. Scores, softmax, dropout and sums are in f32; probabilities and
// gradients of scores are rounded to be factors. The softmax is computed on the way, as in `attention.cu`. No atomics.

#include "attention.cuh"
#include "mma.cuh"

constexpr int WARPS = 4;
constexpr int MOST_THREADS = WARPS * WARP, LEAST_BLOCKS = 3;

// One head's elements of the rows of a sequence.
template <class T>
struct Rows {
    T* first;
    int count, width;

    __device__ Rows(T* from, int start, int count, int width, int column)
        : first(from + static_cast<size_t>(start) * width + column), count(count), width(width) {}

    __device__ T* at(int row) const { return first + static_cast<size_t>(row) * width; }
};

// Elements from a row to the next in shared memory: eight more than there are, so that eight rows lie in different banks.
__device__ constexpr int stride_of(int size) { return size + 8; }

__device__ inline int in_blocks(int count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

// The first of the warp's rows.
__device__ inline int warp_row(const Tile& tile) { return tile.first + static_cast<int>(threadIdx.x) / WARP * BLOCK; }

// Begins to copy `count` rows to shared memory; those that there are not become 0.
template <int SIZE, class T>
__device__ void begin_copy(const Rows<const T>& rows, int count, T* to) {
    constexpr int EIGHTS = SIZE / 8;
    for (int i = threadIdx.x; i < count * EIGHTS; i += blockDim.x) {
        const int row = i / EIGHTS, column = i % EIGHTS * 8;
        const bool exists = row < rows.count;
        begin_copy16(to + row * stride_of(SIZE) + column, rows.at(exists ? row : 0) + column, exists);
    }
}

// Begins to copy two rows of each column, of as many columns as there is room for, once no thread reads what is there: the
// second ones behind the room of the first. Returns of how many, in whole blocks.
template <int SIZE, class T>
__device__ int begin_copies(const Rows<const T>& firsts, const Rows<const T>& seconds, int room, T* to) {
    __syncthreads();
    const int known = min(room, in_blocks(firsts.count));
    begin_copy<SIZE>(firsts, known, to);
    begin_copy<SIZE>(seconds, known, to + room * stride_of(SIZE));
    return known;
}

// The same of the keys and the values of the sequence's tokens from `first` on.
template <int SIZE, class T>
__device__ int begin_pairs(const T* kv, const Tile& tile, int first, const Head& head, int room, T* to) {
    const int from = tile.key_start + first, rest = tile.keys - first;
    const Rows<const T> keys(kv, from, rest, head.pair_width, head.column());
    const Rows<const T> values(kv + head.hidden(), from, rest, head.pair_width, head.column());
    return begin_copies<SIZE>(keys, values, room, to);
}

// The warp's rows as left factors; those that there are not are 0.
template <int PARTS, class T>
__device__ void read_rows(const Rows<const T>& rows, int start, Left (&parts)[PARTS]) {
    for (int part = 0; part < PARTS; part++) {
        for (int p = 0; p < PAIRS; p++) {
            const int row = start + block_row(p);
            const T* from = rows.at(row) + part * BLOCK + block_column(p);
            parts[part].pairs[p] = row < rows.count ? *reinterpret_cast<const unsigned*>(from) : 0;
        }
    }
}

template <int PARTS, class T>
__device__ void write_rows(const Rows<T>& rows, int start, const Sums (&parts)[PARTS], const float (&scales)[2]) {
    for (int part = 0; part < PARTS; part++) {
        for (int p = 0; p < PAIRS; p++) {
            const int row = start + block_row(p);
            const float scale = scales[p % 2], *sums = parts[part].of + 2 * p;
            T* to = rows.at(row) + part * BLOCK + block_column(p);
            if (row < rows.count) *reinterpret_cast<unsigned*>(to) = packed<T>(sums[0] * scale, sums[1] * scale);
        }
    }
}

// The products of the warp's rows with 16 columns.
template <class T, int PARTS>
__device__ Sums products(const Left (&rows)[PARTS], const T* columns) {
    Sums sums{};
    for (int part = 0; part < PARTS; part++) {
        multiply<T>(sums, rows[part], columns_at(columns + part * BLOCK, stride_of(PARTS * BLOCK)));
    }
    return sums;
}

// sums[row] += Σ_column weights[row][column] columns[column]
template <class T, int PARTS>
__device__ void accumulate(const Sums& weights, const T* columns, Sums (&sums)[PARTS]) {
    const Left left = as_left<T>(weights);
    for (int part = 0; part < PARTS; part++) {
        multiply<T>(sums[part], left, rows_at(columns + part * BLOCK, stride_of(PARTS * BLOCK)));
    }
}

// Over the four lanes that have a row's elements.
__device__ inline float row_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 2);
    return value + __shfl_xor_sync(ALL_LANES, value, 1);
}

__device__ inline float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
}

// Σ_j P dP of this lane's two of the 16 queries from `start` on: the product of a query's context with its gradient.
template <int PARTS, class T>
__device__ void gradient_means(const Rows<const T>& contexts, const Rows<const T>& gradients, int start,
                               float (&means)[2]) {
    Left context[PARTS], gradient[PARTS];
    read_rows(contexts, start, context);
    read_rows(gradients, start, gradient);
    means[0] = means[1] = 0.0f;
    for (int part = 0; part < PARTS; part++) {
        for (int p = 0; p < PAIRS; p++) {
            const float2 left = unpacked<T>(context[part].pairs[p]), right = unpacked<T>(gradient[part].pairs[p]);
            means[p % 2] += left.x * right.x + left.y * right.y;
        }
    }
    for (int r = 0; r < 2; r++) means[r] = row_sum(means[r]);
}

template <class T, int SIZE>
__device__ void attend(const T* q, const T* kv, T* context, float* stats, const Tile& tile, int data_row, const Head& head,
                       const Dropout& dropout, int room) {
    constexpr int PARTS = SIZE / BLOCK;
    SHARED(shared);
    const int hidden = head.hidden(), column = head.column(), start = warp_row(tile);
    T* keys = reinterpret_cast<T*>(shared);
    T* values = keys + room * stride_of(SIZE);
    const Mask mask(dropout, data_row);

    Left queries[PARTS];
    read_rows(Rows<const T>(q, tile.query_start, tile.queries, head.query_width, column), start, queries);
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    Sums sums[PARTS]{};
    for (int first = 0; first < tile.keys; first += room) {
        const int known = begin_pairs<SIZE>(kv, tile, first, head, room, keys);
        end_copies();
        __syncthreads();
        for (int at = 0; start < tile.queries && at < known; at += BLOCK) {
            Sums weights = products<T>(queries, keys + at * stride_of(SIZE));
            float highest[2] = {most[0], most[1]}, correction[2];
            for (int i = 0; i < 2 * PAIRS; i++) {
                const int key = first + at + block_column(i / 2) + i % 2, r = i / 2 % 2;
                weights.of[i] = key < tile.keys ? weights.of[i] * head.scale : -INFINITY;
                highest[r] = fmaxf(highest[r], weights.of[i]);
            }
            for (int r = 0; r < 2; r++) {
                highest[r] = row_max(highest[r]);
                correction[r] = expf(most[r] - highest[r]);
                most[r] = highest[r];
                sum[r] *= correction[r];
            }
            for (int i = 0; i < 2 * PAIRS; i++) {
                const int key = first + at + block_column(i / 2) + i % 2, query = start + block_row(i / 2), r = i / 2 % 2;
                const unsigned element = (static_cast<unsigned>(head.index) * tile.keys + query) * tile.keys + key;
                const float weight = expf(weights.of[i] - most[r]);
                sum[r] += weight;
                weights.of[i] = weight * mask.factor(element);
            }
            for (int part = 0; part < PARTS; part++) {
                for (int i = 0; i < 2 * PAIRS; i++) sums[part].of[i] *= correction[i / 2 % 2];
            }
            accumulate(weights, values + at * stride_of(SIZE), sums);
        }
    }
    if (start >= tile.queries) return;
    float inverse[2];
    for (int r = 0; r < 2; r++) {
        inverse[r] = 1.0f / row_sum(sum[r]);
        const int query = start + block_row(r);
        if (query < tile.queries && threadIdx.x % 4 == 0) {
            float* to = stats + 2 * head.statistic(tile, query);
            to[0] = most[r];
            to[1] = inverse[r];
        }
    }
    write_rows(Rows<T>(context, tile.query_start, tile.queries, hidden, column), start, sums, inverse);
}

template <class T, int SIZE>
__device__ void query_gradients(const T* q, const T* kv, const T* context, const float* stats, const T* dcontext, T* dq,
                                const Tile& tile, int data_row, const Head& head, const Dropout& dropout, int room) {
    constexpr int PARTS = SIZE / BLOCK;
    SHARED(shared);
    const int hidden = head.hidden(), column = head.column(), start = warp_row(tile);
    T* keys = reinterpret_cast<T*>(shared);
    T* values = keys + room * stride_of(SIZE);
    const Rows<const T> asked(dcontext, tile.query_start, tile.queries, hidden, column);
    const Mask mask(dropout, data_row);

    Left queries[PARTS], gradients[PARTS];
    read_rows(Rows<const T>(q, tile.query_start, tile.queries, head.query_width, column), start, queries);
    read_rows(asked, start, gradients);
    float softmax[2][2], mean[2];
    gradient_means<PARTS>(Rows<const T>(context, tile.query_start, tile.queries, hidden, column), asked, start, mean);
    for (int r = 0; r < 2; r++) {
        const float* from = stats + 2 * head.statistic(tile, min(start + block_row(r), tile.queries - 1));
        softmax[r][0] = from[0];
        softmax[r][1] = from[1];
    }
    Sums sums[PARTS]{};
    for (int first = 0; first < tile.keys; first += room) {
        const int known = begin_pairs<SIZE>(kv, tile, first, head, room, keys);
        end_copies();
        __syncthreads();
        for (int at = 0; start < tile.queries && at < known; at += BLOCK) {
            Sums scores = products<T>(queries, keys + at * stride_of(SIZE));
            const Sums dprobabilities = products<T>(gradients, values + at * stride_of(SIZE));
            for (int i = 0; i < 2 * PAIRS; i++) {
                const int key = first + at + block_column(i / 2) + i % 2, query = start + block_row(i / 2), r = i / 2 % 2;
                const unsigned element = (static_cast<unsigned>(head.index) * tile.keys + query) * tile.keys + key;
                const float factor = mask.factor(element), score = scores.of[i] * head.scale;
                const Pair found = pair(score, dprobabilities.of[i], factor, softmax[r], mean[r]);
                scores.of[i] = key < tile.keys ? found.gradient : 0.0f;
            }
            accumulate(scores, keys + at * stride_of(SIZE), sums);
        }
    }
    const float scales[2] = {head.scale, head.scale};
    write_rows(Rows<T>(dq, tile.query_start, tile.queries, head.query_width, column), start, sums, scales);
}

// The tile's rows are keys, its columns queries.
template <class T, int SIZE>
__device__ void key_value_gradients(const T* q, const T* kv, const T* context, const float* stats, const T* dcontext,
                                    T* dkv, const Tile& tile, int data_row, const Head& head, const Dropout& dropout,
                                    int room) {
    constexpr int PARTS = SIZE / BLOCK;
    SHARED(shared);
    const int hidden = head.hidden(), column = head.column(), start = warp_row(tile);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    T* queries = reinterpret_cast<T*>(shared);
    T* gradients = queries + room * stride_of(SIZE);
    // Of each query its softmax's maximum and reciprocal sum, and its mean.
    float* numbers = reinterpret_cast<float*>(gradients + room * stride_of(SIZE));
    const Mask mask(dropout, data_row);

    Left keys[PARTS], values[PARTS];
    read_rows(Rows<const T>(kv, tile.key_start, tile.keys, head.pair_width, column), start, keys);
    read_rows(Rows<const T>(kv + hidden, tile.key_start, tile.keys, head.pair_width, column), start, values);
    Sums dkey[PARTS]{}, dvalue[PARTS]{};
    for (int first = 0; first < tile.queries; first += room) {
        const int from = tile.query_start + first, rest = tile.queries - first;
        const Rows<const T> asked(dcontext, from, rest, hidden, column), contexts(context, from, rest, hidden, column);
        const int known = begin_copies<SIZE>(Rows<const T>(q, from, rest, head.query_width, column), asked, room, queries);
        for (int at = warp * BLOCK; at < known; at += WARPS * BLOCK) {
            float means[2];
            gradient_means<PARTS>(contexts, asked, at, means);
            for (int r = 0; r < 2; r++) {
                const int query = first + at + block_row(r);
                const float* from = stats + 2 * head.statistic(tile, min(query, tile.queries - 1));
                float* to = numbers + 3 * (at + block_row(r));
                if (lane % 4 == 0) {
                    to[0] = from[0];
                    to[1] = from[1];
                    to[2] = means[r];
                }
            }
        }
        end_copies();
        __syncthreads();
        for (int at = 0; start < tile.keys && at < known; at += BLOCK) {
            Sums scores = products<T>(keys, queries + at * stride_of(SIZE));
            Sums dropped = products<T>(values, gradients + at * stride_of(SIZE));
            for (int i = 0; i < 2 * PAIRS; i++) {
                const int place = at + block_column(i / 2) + i % 2, query = first + place, key = start + block_row(i / 2);
                const unsigned element = (static_cast<unsigned>(head.index) * tile.keys + query) * tile.keys + key;
                const float factor = mask.factor(element), score = scores.of[i] * head.scale;
                const Pair found = pair(score, dropped.of[i], factor, numbers + 3 * place, numbers[3 * place + 2]);
                dropped.of[i] = query < tile.queries ? found.dropped : 0.0f;
                scores.of[i] = query < tile.queries ? found.gradient : 0.0f;
            }
            accumulate(dropped, gradients + at * stride_of(SIZE), dvalue);
            accumulate(scores, queries + at * stride_of(SIZE), dkey);
        }
    }
    const float scales[2] = {head.scale, head.scale}, ones[2] = {1.0f, 1.0f};
    write_rows(Rows<T>(dkv, tile.key_start, tile.keys, head.pair_width, column), start, dkey, scales);
    write_rows(Rows<T>(dkv + hidden, tile.key_start, tile.keys, head.pair_width, column), start, dvalue, ones);
}

#define BY_SIZE(function, T, ...)                        \
    if (size == 32) function<T, 32>(__VA_ARGS__);        \
    else function<T, 64>(__VA_ARGS__);

#define MATRIX_ATTENTION(T, S)                                                                                          \
    KERNEL(matrix_attention_forward_##S,                                                                                \
           (const T* q, const T* kv, T* context, float* stats, const int* tiles, const int* query_offsets,              \
            const int* key_offsets, const int* rows, int heads, int size, float scale, int query_width,                 \
            int pair_width, Drop drop, int room)) {                                                                     \
        if (!has_tile(tiles)) return;                                                                                   \
        const Tile tile(tiles, query_offsets, key_offsets);                                                             \
        const Head head{static_cast<int>(blockIdx.y), heads, size, scale, query_width, pair_width};                     \
        BY_SIZE(attend, T, q, kv, context, stats, tile, rows[tile.sequence], head, Dropout(drop),                       \
                room)                                                                                                   \
    }                                                                                                                   \
    KERNEL(matrix_attention_query_gradient_##S,                                                                         \
           (const T* q, const T* kv, const T* context, const float* stats, const T* dcontext, T* dq, const int* tiles,  \
            const int* query_offsets, const int* key_offsets, const int* rows, int heads, int size, float scale,        \
            int query_width, int pair_width, Drop drop, int room)) {                                                    \
        if (!has_tile(tiles)) return;                                                                                   \
        const Tile tile(tiles, query_offsets, key_offsets);                                                             \
        const Head head{static_cast<int>(blockIdx.y), heads, size, scale, query_width, pair_width};                     \
        BY_SIZE(query_gradients, T, q, kv, context, stats, dcontext, dq, tile, rows[tile.sequence], head,               \
                Dropout(drop), room)                                                                                    \
    }                                                                                                                   \
    KERNEL(matrix_attention_key_value_gradient_##S,                                                                     \
           (const T* q, const T* kv, const T* context, const float* stats, const T* dcontext, T* dkv, const int* tiles, \
            const int* query_offsets, const int* key_offsets, const int* rows, int heads, int size, float scale,        \
            int query_width, int pair_width, Drop drop, int room)) {                                                    \
        if (!has_tile(tiles)) return;                                                                                   \
        const Tile tile(tiles, query_offsets, key_offsets);                                                             \
        const Head head{static_cast<int>(blockIdx.y), heads, size, scale, query_width, pair_width};                     \
        BY_SIZE(key_value_gradients, T, q, kv, context, stats, dcontext, dkv, tile, rows[tile.sequence], head,          \
                Dropout(drop), room)                                                                                    \
    }
EACH_HALF(MATRIX_ATTENTION)
