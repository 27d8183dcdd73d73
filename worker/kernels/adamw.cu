// AdamW, with the half-precision copy of the parameters: see `ops/adamw.rs`.

#include "runs.cuh"

constexpr int MOST_THREADS = 256, LEAST_BLOCKS = 4;

struct Coefficients {
    float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step_size, root_scale, epsilon, decay_before, decay_after;
};

// Everything a step changes; `copy` may be null.
template <class T>
struct State {
    float* parameters;
    float* first;
    float* second;
    T* copy;

    __device__ void step(size_t at, float gradient, const Coefficients& c) const {
        const float g = gradient * c.gradient_scale;
        const float m = c.beta1 * first[at] + c.one_minus_beta1 * g;
        const float v = c.beta2 * second[at] + c.one_minus_beta2 * g * g;
        float p = parameters[at];
        p -= c.decay_before * p;
        p -= c.step_size * m / (sqrtf(v) * c.root_scale + c.epsilon);
        p -= c.decay_after * p;
        parameters[at] = p;
        first[at] = m;
        second[at] = v;
        if (copy != nullptr) store(copy + at, p);
    }
};

// Elements of a block.
constexpr int BLOCK = 8192;

// A run's flags are its place among the parameters, doubled, and whether it decays.
template <class T>
__device__ void dense(State<T> state, const Run* runs, int known, Coefficients c) {
    const Run run = run_of_block(runs, known);
    if (run.flags % 2 == 0) c.decay_before = c.decay_after = 0.0f;
    const size_t start = run.flags / 2;
    const long long first = (static_cast<long long>(blockIdx.x) - run.first_block) * BLOCK;
    const long long end = min(first + BLOCK, run.count);
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) state.step(start + i, run.values[i], c);
}

// One row of the matrix a block; `rows`, ascending, says which have a gradient.
template <class T>
__device__ void by_rows(State<T> state, const float* gradient, const int* rows, int known, const Coefficients& c,
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

#define ADAMW(T, S)                                                                                                     \
    KERNEL(adamw_##S, (float* parameters, float* first, float* second, T* copy, const Run* runs, int known,             \
                       Coefficients coefficients)) {                                                                    \
        dense(State<T>{parameters, first, second, copy}, runs, known, coefficients);                                    \
    }                                                                                                                   \
    KERNEL(adamw_rows_##S, (float* parameters, float* first, float* second, T* copy, const float* gradient,             \
                            Coefficients coefficients, const int* rows, int known, int width)) {                        \
        by_rows(State<T>{parameters, first, second, copy}, gradient, rows, known, coefficients, width);                 \
    }
EACH_ELEMENT(ADAMW)
