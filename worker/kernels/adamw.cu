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

    __device__ bool is_aligned(size_t at) const {
        return is_aligned4(parameters + at) && is_aligned4(first + at) && is_aligned4(second + at) &&
               (copy == nullptr || is_aligned4(copy + at));
    }

    template <class V>
    __device__ void step(size_t at, V gradient, const Coefficients& c) const {
        const V g = c.gradient_scale * gradient;
        const V m = c.beta1 * load_as<V>(first + at) + c.one_minus_beta1 * g;
        const V v = c.beta2 * load_as<V>(second + at) + c.one_minus_beta2 * g * g;
        V p = load_as<V>(parameters + at);
        p = p - c.decay_before * p;
        p = p - c.step_size * m / (c.root_scale * root(v) + c.epsilon);
        p = p - c.decay_after * p;
        store(parameters + at, p);
        store(first + at, m);
        store(second + at, v);
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
