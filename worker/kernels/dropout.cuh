// Dropout masks as pure functions: the same bits as `ops/dropout.rs`.
#pragma once

#include "element.cuh"

// The dropout of one place in one update. A threshold of 0 drops nothing and scales by 1.
struct Dropout {
    unsigned long long key;
    unsigned threshold;
    float scale;
};

// The mask of one data row there.
struct Mask {
    unsigned low;
    unsigned high;
    unsigned threshold;
    float scale;

    __device__ Mask(Dropout dropout, unsigned row) : threshold(dropout.threshold), scale(dropout.scale) {
        unsigned long long key = dropout.key ^ row;
        key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9ull;
        key = (key ^ (key >> 27)) * 0x94d049bb133111ebull;
        key = key ^ (key >> 31);
        low = static_cast<unsigned>(key);
        high = static_cast<unsigned>(key >> 32);
    }

    // An integer hash with low bias (Chris Wellons, "Prospecting for Hash Functions", 2018).
    __device__ static unsigned lowbias32(unsigned value) {
        value = (value ^ (value >> 16)) * 0x7feb352du;
        value = (value ^ (value >> 15)) * 0x846ca68bu;
        return value ^ (value >> 16);
    }

    // What the element of this number is multiplied by.
    __device__ float factor(unsigned element) const {
        if (threshold == 0) return scale;
        return lowbias32(lowbias32(element ^ low) ^ high) < threshold ? 0.0f : scale;
    }

    __device__ float4 factor4(unsigned element) const {
        return make_float4(factor(element), factor(element + 1), factor(element + 2), factor(element + 3));
    }
};
