// AdamW, with the half-precision copy of the parameters: see `ops/adamw.rs`.

#include "step.cuh"

constexpr int MOST_THREADS = 256, LEAST_BLOCKS = 4;

struct Coefficients {
    float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step_size, root_scale, epsilon, decay_before, decay_after;

    __device__ Coefficients lasting() const {
        Coefficients c = *this;
        c.decay_before = c.decay_after = 0.0f;
        return c;
    }
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

#define ADAMW(T, S)                                                                                                     \
    KERNEL(adamw_##S, (float* parameters, float* first, float* second, T* copy, const Run* runs, int known,             \
                       Coefficients coefficients)) {                                                                    \
        step_runs(State<T>{parameters, first, second, copy}, runs, known, coefficients);                                    \
    }                                                                                                                   \
    KERNEL(adamw_rows_##S, (float* parameters, float* first, float* second, T* copy, const float* gradient,             \
                            Coefficients coefficients, const int* rows, int known, int width)) {                        \
        step_rows(State<T>{parameters, first, second, copy}, gradient, rows, known, coefficients, width);                 \
    }
EACH_ELEMENT(ADAMW)
