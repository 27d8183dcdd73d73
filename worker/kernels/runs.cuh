// Runs of elements that one launch goes over: see `ops/cuda/runs.rs`.
#pragma once

#include "element.cuh"

struct Run {
    const float* values;
    long long count;
    // The first block of threads that takes it; the next run's first one ends it.
    long long first_block;
    unsigned long long flags;
};

// The run of this block: the last that begins no later. Runs of no block are passed over.
__device__ inline Run run_of_block(const Run* runs, int known) {
    int low = 0, high = known;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (runs[middle].first_block <= static_cast<long long>(blockIdx.x)) low = middle;
        else high = middle;
    }
    return runs[low];
}
