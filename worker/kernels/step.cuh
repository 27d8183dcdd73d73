// Which elements a step of an optimizer moves, and by which gradient: see `ops/step.rs`. A state steps an element, or four,
// by `step(at, gradient, coefficients)`, and says by `is_aligned(at)` whether four there can be one access; its coefficients
// have `lasting()`, the same without decay.
//
// Files that include this one are compiled with `-fmad=false` (`build.rs`; `deploy/cuda/lint` looks whether it is so): every
// product, sum, quotient and root is rounded by itself, as IEEE 754 and the CPU have it. Otherwise the compiler might contract
// the formula of one element in another way than that of four, and bits would depend on where an element lies. These kernels
// wait for memory: it costs nothing.
#pragma once

#include "runs.cuh"

// Elements of a block.
constexpr int STEP_BLOCK = 8192;

// Steps `count` elements from `at` on by their gradients, none of which is all 0: by fours where state and gradient lie so,
// one by one elsewhere and at the ends. An element has the same bits either way, in f32 those of the CPU.
template <class State, class Coefficients>
__device__ void step_all(const State& state, size_t at, const float* gradient, int count, const Coefficients& c) {
    const int lead = min(static_cast<int>((4 - at % 4) % 4), count);
    const bool is_wide = state.is_aligned(at + lead) && (gradient == nullptr || is_aligned4(gradient + lead));
    const int fours = is_wide ? (count - lead) / 4 : 0;
    for (int i = threadIdx.x; i < fours; i += blockDim.x) {
        const int place = lead + 4 * i;
        state.step(at + place, gradient == nullptr ? all4(0.0f) : load4(gradient + place), c);
    }
    for (int i = threadIdx.x; i < count - 4 * fours; i += blockDim.x) {
        const int place = i < lead ? i : i + 4 * fours;
        state.step(at + place, gradient == nullptr ? 0.0f : gradient[place], c);
    }
}

// A run's flags are its place among the parameters, doubled, and whether it decays.
template <class State, class Coefficients>
__device__ void step_runs(const State& state, const Run* runs, int known, Coefficients c) {
    const Run run = run_of_block(runs, known);
    if (run.flags % 2 == 0) c = c.lasting();
    const size_t start = run.flags / 2;
    const long long first = (static_cast<long long>(blockIdx.x) - run.first_block) * STEP_BLOCK;
    const long long end = min(first + STEP_BLOCK, run.count);
    step_all(state, start + first, run.values + first, static_cast<int>(end - first), c);
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
    const float* of_row = has ? gradient + static_cast<size_t>(place) * width : nullptr;
    step_all(state, static_cast<size_t>(row) * width, of_row, width, c);
}
