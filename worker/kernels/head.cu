// The classification head: a handful of rows. See `ops/head.rs`.

#include "dropout.cuh"

constexpr int MOST_THREADS = 256, LEAST_BLOCKS = 4;

template <class T>
__device__ void first_tokens(const T* x, const int* offsets, T* y, int width) {
    const size_t from = static_cast<size_t>(offsets[blockIdx.x]) * width, to = static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) y[to + column] = x[from + column];
}

template <class T>
__device__ void first_tokens_backward(const T* dy, const int* offsets, T* dx, int width) {
    const size_t to = static_cast<size_t>(offsets[blockIdx.x]) * width, from = static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        store(dx + to + column, load(dx + to + column) + load(dy + from + column));
    }
}

template <class T>
__device__ void tanh_dropout(T* x, T* y, const int* rows, Dropout dropout, int width) {
    const Mask mask(dropout, rows[blockIdx.x]);
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        const float value = rounded<T>(tanhf(load(x + start + column)));
        store(x + start + column, value);
        store(y + start + column, value * mask.factor(column));
    }
}

template <class T>
__device__ void tanh_dropout_backward(const T* x, T* gradient, const int* rows, Dropout dropout, int width) {
    const Mask mask(dropout, rows[blockIdx.x]);
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        const float value = load(x + start + column);
        const float slope = 1.0f - value * value;
        store(gradient + start + column, load(gradient + start + column) * mask.factor(column) * slope);
    }
}

template <class T>
__device__ void head_dropout(const T* x, T* y, const int* rows, Dropout dropout, int width) {
    const Mask mask(dropout, rows[blockIdx.x]);
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
        store(y + start + column, load(x + start + column) * mask.factor(column));
    }
}

// One sequence a thread, in f64: there are few. A label below 0 is none, of which there is no loss; `weights` may be null.
template <class T>
__device__ void cross_entropy(const float* logits, const int* labels, T* dlogits, float* losses, const double* weights,
                              float smoothing, float gradient_scale, int sequences, int width) {
    const int sequence = blockIdx.x * blockDim.x + threadIdx.x;
    if (sequence >= sequences) return;
    if (labels[sequence] < 0) {
        for (int column = 0; column < width; column++) store(dlogits + static_cast<size_t>(sequence) * width + column, 0.0f);
        losses[sequence] = 0.0f;
        return;
    }
    const float* row = logits + static_cast<size_t>(sequence) * width;
    double most = row[0];
    for (int column = 1; column < width; column++) most = fmax(most, static_cast<double>(row[column]));
    double sum = 0.0;
    for (int column = 0; column < width; column++) sum += exp(row[column] - most);
    const double log_sum = log(sum);
    const auto target_of = [=](int column) {
        const double certain = labels[sequence] == column ? 1.0 - smoothing : 0.0;
        return (certain + static_cast<double>(smoothing) / width) * (weights == nullptr ? 1.0 : weights[column]);
    };
    double mass = weights == nullptr ? 1.0 : 0.0;
    for (int column = 0; column < width && weights != nullptr; column++) mass += target_of(column);
    double loss = 0.0;
    for (int column = 0; column < width; column++) {
        const double log_probability = row[column] - most - log_sum;
        const double target = target_of(column);
        loss -= target * log_probability;
        const double gradient = (exp(log_probability) * mass - target) * gradient_scale;
        store(dlogits + static_cast<size_t>(sequence) * width + column, static_cast<float>(gradient));
    }
    losses[sequence] = static_cast<float>(loss);
}

// One lane a thread, its sequences in their order, in f64: there are few of both.
KERNEL(lane_losses_f32, (const float* losses, const int* lanes, float* sums, int first, int end, int sequences,
                         int count)) {
    const int lane = blockIdx.x * blockDim.x + threadIdx.x;
    if (lane >= count) return;
    double sum = 0.0;
    for (int sequence = 0; sequence < sequences && lane >= first && lane < end; sequence++) {
        if (lanes[sequence] == lane) sum += losses[sequence];
    }
    sums[lane] = static_cast<float>(sum);
}

#define FIRST(T, S)                                                                                                     \
    KERNEL(first_tokens_##S, (const T* x, const int* offsets, T* y, int width)) { first_tokens(x, offsets, y, width); } \
    KERNEL(first_tokens_backward_##S, (const T* dy, const int* offsets, T* dx, int width)) {                            \
        first_tokens_backward(dy, offsets, dx, width);                                                                  \
    }
EACH_ELEMENT(FIRST)

#define TANH(T, S)                                                                                                      \
    KERNEL(tanh_dropout_##S,                                                                                            \
           (T* x, T* y, const int* rows, Drop drop, int width)) {                                                       \
        tanh_dropout(x, y, rows, Dropout(drop), width);                                                                 \
    }                                                                                                                   \
    KERNEL(tanh_dropout_backward_##S,                                                                                   \
           (const T* x, T* gradient, const int* rows, Drop drop, int width)) {                                          \
        tanh_dropout_backward(x, gradient, rows, Dropout(drop), width);                                                 \
    }
EACH_ELEMENT(TANH)

#define DROPOUT(T, S)                                                                                                   \
    KERNEL(head_dropout_##S,                                                                                            \
           (const T* x, T* y, const int* rows, Drop drop, int width)) {                                                 \
        head_dropout(x, y, rows, Dropout(drop), width);                                                                 \
    }
EACH_ELEMENT(DROPOUT)

#define LOSS(T, S)                                                                                                      \
    KERNEL(cross_entropy_##S,                                                                                           \
           (const float* logits, const int* labels, T* dlogits, float* losses, const double* weights, float smoothing,  \
            float gradient_scale, int sequences, int width)) {                                                          \
        cross_entropy(logits, labels, dlogits, losses, weights, smoothing, gradient_scale, sequences, width);           \
    }
EACH_ELEMENT(LOSS)
