// AdamW, with the half-precision copy of the parameters: see `ops/adamw.rs`.

#include "element.cuh"

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

template <class T>
__device__ void dense(State<T> state, const float* gradient, const Coefficients& c, long long count) {
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        state.step(i, gradient[i], c);
    }
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
    KERNEL(adamw_##S, (float* parameters, float* first, float* second, T* copy, const float* gradient,                  \
                       Coefficients coefficients, long long count)) {                                                   \
        dense(State<T>{parameters, first, second, copy}, gradient, coefficients, count);                                \
    }                                                                                                                   \
    KERNEL(adamw_rows_##S, (float* parameters, float* first, float* second, T* copy, const float* gradient,             \
                            Coefficients coefficients, const int* rows, int known, int width)) {                        \
        by_rows(State<T>{parameters, first, second, copy}, gradient, rows, known, coefficients, width);                 \
    }
EACH_ELEMENT(ADAMW)
