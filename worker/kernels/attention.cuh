// What the kernels of attention are about, and what their backward computes again: see `ops/attention.rs`.
#pragma once

#include "dropout.cuh"

// Whether a block has rows to compute: tables of tiles may have places for more than there are.
__device__ inline bool has_tile(const int* tiles) { return tiles[2 * blockIdx.x] >= 0; }

// Which rows a block computes, of which sequence.
struct Tile {
    int sequence, first, query_start, queries, key_start, keys;

    __device__ Tile(const int* tiles, const int* query_offsets, const int* key_offsets)
        : sequence(tiles[2 * blockIdx.x]), first(tiles[2 * blockIdx.x + 1]) {
        query_start = query_offsets[sequence];
        queries = query_offsets[sequence + 1] - query_start;
        key_start = key_offsets[sequence];
        keys = key_offsets[sequence + 1] - key_start;
    }
};

// One head: its elements are columns `head * size ..` of rows of `heads * size` elements. Queries, and keys with the values
// behind them, stand in rows of their own widths.
struct Head {
    int index, heads, size;
    float scale;
    int query_width, pair_width;

    __device__ int hidden() const { return heads * size; }
    __device__ int column() const { return index * size; }

    // The place of a query's statistics among those of all.
    __device__ size_t statistic(const Tile& tile, int query) const {
        return static_cast<size_t>(tile.query_start) * heads + index * tile.queries + query;
    }
};

// What backward computes again of a query and a key.
struct Pair {
    // The probability after dropout, and the gradient of the score.
    float dropped, gradient;
};

__device__ inline Pair pair(float score, float dprobability, float factor, const float stats[2], float mean) {
    const float probability = expf(score - stats[0]) * stats[1];
    return Pair{probability * factor, probability * (dprobability * factor - mean)};
}
