// SGD, with the half-precision copy of the parameters: see `ops/sgd.rs`.

#include "step.cuh"

constexpr int MOST_THREADS = 256, LEAST_BLOCKS = 4;

struct SgdCoefficients {
    float gradient_scale, decay, momentum, taken, direct, through, step_size;

    __device__ SgdCoefficients lasting() const {
        SgdCoefficients c = *this;
        c.decay = 0.0f;
        return c;
    }
};

// Everything a step changes; `momentum` and `copy` may be null.
template <class T>
struct SgdState {
    float* parameters;
    float* momentum;
    T* copy;

    __device__ bool is_aligned(size_t at) const {
        return is_aligned4(parameters + at) && (momentum == nullptr || is_aligned4(momentum + at)) &&
               (copy == nullptr || is_aligned4(copy + at));
    }

    template <class V>
    __device__ void step(size_t at, V gradient, const SgdCoefficients& c) const {
        V p = load_as<V>(parameters + at);
        const V g = c.gradient_scale * gradient + c.decay * p;
        V b{};
        if (momentum != nullptr) {
            b = c.momentum * load_as<V>(momentum + at) + c.taken * g;
            store(momentum + at, b);
        }
        p = p - c.step_size * (c.direct * g + c.through * b);
        store(parameters + at, p);
        if (copy != nullptr) store(copy + at, p);
    }
};

#define SGD(T, S)                                                                                                       \
    KERNEL(sgd_##S, (float* parameters, float* momentum, T* copy, const Run* runs, int known, float gradient_scale,     \
                     float decay, float kept, float taken, float direct, float through, float step_size)) {             \
        const SgdCoefficients c{gradient_scale, decay, kept, taken, direct, through, step_size};                        \
        step_runs(SgdState<T>{parameters, momentum, copy}, runs, known, c);                                             \
    }                                                                                                                   \
    KERNEL(sgd_rows_##S, (float* parameters, float* momentum, T* copy, const float* gradient, const int* rows,          \
                          int known, int width, float gradient_scale, float decay, float kept, float taken,             \
                          float direct, float through, float step_size)) {                                              \
        const SgdCoefficients c{gradient_scale, decay, kept, taken, direct, through, step_size};                        \
        step_rows(SgdState<T>{parameters, momentum, copy}, gradient, rows, known, c, width);                            \
    }
EACH_ELEMENT(SGD)
