// Dropout masks as pure functions: the same bits as `ops/dropout.rs`.
#pragma once

#include "element.cuh"

// The dropout of one place in the model, as `ops/cuda` passes it. The update's key is read where it lies: the same launch
// may be made again in another update. A threshold of 0 drops nothing and scales by 1.
struct Drop {
    const unsigned long long* key;
    unsigned long long site;
    unsigned threshold;
    float scale;
};

// The finaliser of SplitMix64.
__device__ inline unsigned long long mix(unsigned long long value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

// The dropout of one place in one update.
struct Dropout {
    unsigned long long key = 0;
    unsigned threshold = 0;
    float scale = 1.0f;

    __device__ Dropout() {}

    __device__ explicit Dropout(const Drop& drop)
        : key(drop.threshold == 0 ? 0 : mix(*drop.key ^ drop.site)), threshold(drop.threshold), scale(drop.scale) {}
};

// The mask of one data row there.
struct Mask {
    unsigned low;
    unsigned high;
    unsigned threshold;
    float scale;

    __device__ Mask(Dropout dropout, unsigned row) : threshold(dropout.threshold), scale(dropout.scale) {
        const unsigned long long key = mix(dropout.key ^ row);
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
