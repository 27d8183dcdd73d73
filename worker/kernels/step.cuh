// Which elements a step of an optimizer moves, and by which gradient: see `ops/step.rs`. A state steps an element by
// `step(at, gradient, coefficients)`; its coefficients have `lasting()`, the same without decay.
#pragma once

#include "runs.cuh"

// Elements of a block.
constexpr int STEP_BLOCK = 8192;

// A run's flags are its place among the parameters, doubled, and whether it decays.
template <class State, class Coefficients>
__device__ void step_runs(const State& state, const Run* runs, int known, Coefficients c) {
    const Run run = run_of_block(runs, known);
    if (run.flags % 2 == 0) c = c.lasting();
    const size_t start = run.flags / 2;
    const long long first = (static_cast<long long>(blockIdx.x) - run.first_block) * STEP_BLOCK;
    const long long end = min(first + STEP_BLOCK, run.count);
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) state.step(start + i, run.values[i], c);
}

// One row of the matrix a block; `rows`, ascending, says which have a gradient.
template <class State, class Coefficients>
__device__ void step_rows(const State& state, const float* gradient, const int* rows, int known, const Coefficients& c,
                          int width) {
    const int row = blockIdx.x;
    int place = 0, end = known;
    while (place < end) {
        const int middle = (place + end) / 2;
        if (rows[middle] < row) place = middle + 1;
        else end = middle;
    }
    const bool has = place < known && rows[place] == row;
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        const float g = has ? gradient[static_cast<size_t>(place) * width + column] : 0.0f;
        state.step(static_cast<size_t>(row) * width + column, g, c);
    }
}
