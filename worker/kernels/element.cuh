// What every kernel is written with: elements of three precisions, groups of four of them, and sums over a warp.
//
// All arithmetic is in f32, whatever precision a buffer has. The same sources compile for a GPU (to PTX) and, with
// `emulator.h` in front, for the host, where the tests run them.
#pragma once

#ifndef MEDLEY_EMULATED
// Each file says how many threads a block of its kernels has at most (`ops/cuda` launches no more; the emulator refuses more,
// as a GPU does), and how many such blocks a multiprocessor is to have room for: that is how many registers the compiler
// may take. With the first alone it takes too few on compute capability 8.0, and spills (`deploy/cuda/lint`).
#define KERNEL(name, parameters) \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS, LEAST_BLOCKS) name parameters
#define SHARED(name) extern __shared__ __align__(16) float name[]
// The emulator's: a GPU sees to it itself.
#define CHECK_ALIGNED(at, bytes)
#else
#define CHECK_ALIGNED(at, bytes) emulator::check_aligned("an access", at, bytes)
#endif

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct bf16 {
    unsigned short bits;
};

struct f16 {
    unsigned short bits;
};

// Instantiates a kernel for each precision.
#define EACH_ELEMENT(kernel) kernel(float, f32) EACH_HALF(kernel)
#define EACH_HALF(kernel) kernel(bf16, bf16) kernel(f16, f16)

#ifndef MEDLEY_EMULATED
__device__ inline float bf16_to_float(unsigned short bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }

__device__ inline unsigned short float_to_bf16(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ inline float f16_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short float_to_f16(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline float load(const float* from) { return *from; }
__device__ inline float load(const bf16* from) { return bf16_to_float(from->bits); }
__device__ inline float load(const f16* from) { return f16_to_float(from->bits); }

__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(bf16* to, float value) { to->bits = float_to_bf16(value); }
__device__ inline void store(f16* to, float value) { to->bits = float_to_f16(value); }

// Two half-precision elements in one word, the first in the lower half.
template <class T>
__device__ inline unsigned packed(float first, float second) {
    T elements[2];
    store(&elements[0], first);
    store(&elements[1], second);
    return elements[0].bits | static_cast<unsigned>(elements[1].bits) << 16;
}

#ifndef MEDLEY_EMULATED
template <>
__device__ inline unsigned packed<bf16>(float first, float second) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}

template <>
__device__ inline unsigned packed<f16>(float first, float second) {
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}
#endif

template <class T>
__device__ inline float2 unpacked(unsigned word) {
    const T elements[2] = {{static_cast<unsigned short>(word)}, {static_cast<unsigned short>(word >> 16)}};
    return make_float2(load(&elements[0]), load(&elements[1]));
}

// Four elements at a multiple of four: one access.
__device__ inline float4 load4(const float* from) {
    CHECK_ALIGNED(from, 16);
    return *reinterpret_cast<const float4*>(from);
}

template <class T>
__device__ inline float4 load4(const T* from) {
    struct alignas(8) Four {
        T element[4];
    };
    CHECK_ALIGNED(from, 8);
    const Four four = *reinterpret_cast<const Four*>(from);
    return make_float4(load(&four.element[0]), load(&four.element[1]), load(&four.element[2]), load(&four.element[3]));
}

__device__ inline void store4(float* to, float4 value) {
    CHECK_ALIGNED(to, 16);
    *reinterpret_cast<float4*>(to) = value;
}

template <class T>
__device__ inline void store4(T* to, float4 value) {
    CHECK_ALIGNED(to, 8);
    const unsigned long long last = packed<T>(value.z, value.w);
    *reinterpret_cast<unsigned long long*>(to) = last << 32 | packed<T>(value.x, value.y);
}

// Whether four elements there can be one access.
template <class T>
__device__ inline bool is_aligned4(const T* at) {
    return reinterpret_cast<size_t>(at) % (4 * sizeof(T)) == 0;
}

// A formula for elements one by one and by fours: `V` is `float` or `float4`.
template <class V>
__device__ inline V load_as(const float* from);
template <>
__device__ inline float load_as<float>(const float* from) { return *from; }
template <>
__device__ inline float4 load_as<float4>(const float* from) { return load4(from); }

template <class T>
__device__ inline void store(T* to, float4 value) { store4(to, value); }

// What is left of a value once it is stored as a `T`.
template <class T>
__device__ inline float rounded(float value) {
    T element;
    store(&element, value);
    return load(&element);
}

template <class T>
__device__ inline float4 rounded4(float4 value) {
    return make_float4(rounded<T>(value.x), rounded<T>(value.y), rounded<T>(value.z), rounded<T>(value.w));
}

__device__ inline float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ inline float4 operator-(float4 a, float4 b) { return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w); }
__device__ inline float4 operator*(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
__device__ inline float4 operator*(float a, float4 b) { return make_float4(a * b.x, a * b.y, a * b.z, a * b.w); }
__device__ inline float4 operator+(float4 a, float b) { return make_float4(a.x + b, a.y + b, a.z + b, a.w + b); }
__device__ inline float4 operator/(float4 a, float4 b) { return make_float4(a.x / b.x, a.y / b.y, a.z / b.z, a.w / b.w); }
__device__ inline float root(float a) { return sqrtf(a); }
__device__ inline float4 root(float4 a) { return make_float4(sqrtf(a.x), sqrtf(a.y), sqrtf(a.z), sqrtf(a.w)); }
__device__ inline float4 all4(float value) { return make_float4(value, value, value, value); }
__device__ inline float total(float4 a) { return (a.x + a.y) + (a.z + a.w); }
__device__ inline float dot(float4 a, float4 b) { return total(a * b); }

// The sum over the lanes of a warp, known to all of them; always in the same order.
__device__ inline float warp_sum(float value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}
