// Products of small matrices of half-precision elements by the lanes of a warp, summed in f32: by matrix units
// (`mma.sync`), or by the emulator, for which each lane does its share.
//
// Matrices are cut into blocks of 16 x 16. A lane holds four pairs of a block's elements: the pair `p` in row
// `block_row(p)` and the columns from `block_column(p)` on. All lanes of a warp call these functions together.
#pragma once

#include "element.cuh"

constexpr int BLOCK = 16;
constexpr int PAIRS = 4;

__device__ constexpr int row_of(int lane, int pair) { return lane / 4 + 8 * (pair % 2); }
__device__ constexpr int column_of(int lane, int pair) { return 2 * (lane % 4) + 8 * (pair / 2); }
__device__ inline int block_row(int pair) { return row_of(threadIdx.x % WARP, pair); }
__device__ inline int block_column(int pair) { return column_of(threadIdx.x % WARP, pair); }

// A block of the left factor.
struct Left {
    unsigned pairs[PAIRS];
};

// A block of the right factor, in the order that the matrix units take it.
struct Right {
    unsigned pairs[PAIRS];
};

// A block of the product: two elements of each pair.
struct Sums {
    float of[2 * PAIRS];
};

#ifndef MEDLEY_EMULATED
__device__ inline unsigned shared_address(const void* at) { return static_cast<unsigned>(__cvta_generic_to_shared(at)); }

// Begins to copy 16 bytes to shared memory, or to fill them with 0.
__device__ inline void begin_copy16(void* to, const void* from, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(exists ? 16 : 0)
                 : "memory");
}

// Waits for what this thread has begun to copy.
__device__ inline void end_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four matrices of 8 x 8 elements in shared memory, of which lane 8 m + r names row r of matrix m. A lane takes a pair of
// each, which stands in row lane / 4 of it, or of its transpose.
__device__ inline void load_matrices(unsigned (&pairs)[PAIRS], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void load_transposed(unsigned (&pairs)[PAIRS], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Half of `sums += left right`: eight columns, which two pairs of each factor's lanes are about.
#define MULTIPLY_HALF(T, S)                                                                                             \
    __device__ inline void multiply_half(const T*, float* sums, const Left& left, const unsigned* right) {              \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." #S "." #S ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "    \
            "{%0, %1, %2, %3};"                                                                                         \
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                                \
            : "r"(left.pairs[0]), "r"(left.pairs[1]), "r"(left.pairs[2]), "r"(left.pairs[3]), "r"(right[0]),            \
              "r"(right[1]));                                                                                           \
    }
EACH_HALF(MULTIPLY_HALF)

// `sums += left right`
template <class T>
__device__ void multiply(Sums& sums, const Left& left, const Right& right) {
    const T* kind = nullptr;
    multiply_half(kind, sums.of, left, right.pairs);
    multiply_half(kind, sums.of + 4, left, right.pairs + 2);
}
#else
// Which lane has an element, and as which of its own.
struct Place {
    int lane, element;
};

constexpr bool operator==(Place a, Place b) { return a.lane == b.lane && a.element == b.element; }

constexpr Place left_place(int row, int k) { return {row % 8 * 4 + k % 8 / 2, 2 * (row / 8 + 2 * (k / 8)) + k % 2}; }
constexpr Place right_place(int k, int column) {
    return {column % 8 * 4 + k % 8 / 2, 2 * (2 * (column / 8) + k / 8) + k % 2};
}

// What the PTX ISA says of `mma.m16n8k16` with elements of 16 bits ("Matrix Fragments for mma.m16n8k16"), in its own words:
// where element `i` of a lane stands in A, in B and in C. It knows eight columns of B and C at a time.
constexpr bool is_as_the_isa_says() {
    for (int lane = 0; lane < WARP; lane++) {
        const int group = lane / 4, in_group = lane % 4;
        for (int i = 0; i < 8; i++) {
            const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            const int column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
            if (!(left_place(row, column) == Place{lane, i})) return false;
            if (row_of(lane, i / 2) != row || column_of(lane, i / 2) + i % 2 != column) return false;
        }
        for (int i = 0; i < 4; i++) {
            const int of_b = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
            const int of_c = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
            for (int half = 0; half < 2; half++) {
                if (!(right_place(of_b, group + 8 * half) == Place{lane, 4 * half + i})) return false;
                const int pair = i / 2 + 2 * half;
                if (row_of(lane, pair) != of_c || column_of(lane, pair) + i % 2 != column + 8 * half) return false;
            }
        }
    }
    return true;
}
static_assert(is_as_the_isa_says(), "lanes hold other elements than the matrix units give and take");

template <class T>
void multiply(Sums& sums, const Left& left, const Right& right) {
    struct Factors {
        float left[2 * PAIRS], right[2 * PAIRS];
    } mine;
    for (int i = 0; i < 2 * PAIRS; i++) {
        const T of_left{static_cast<unsigned short>(left.pairs[i / 2] >> 16 * (i % 2))};
        const T of_right{static_cast<unsigned short>(right.pairs[i / 2] >> 16 * (i % 2))};
        mine.left[i] = load(&of_left);
        mine.right[i] = load(&of_right);
    }
    emulator::exchange(mine, [&](auto lane) {
        for (int i = 0; i < 2 * PAIRS; i++) {
            const int row = block_row(i / 2), column = block_column(i / 2) + i % 2;
            for (int k = 0; k < BLOCK; k++) {
                const Place left_at = left_place(row, k), right_at = right_place(k, column);
                sums.of[i] += lane(left_at.lane).left[left_at.element] * lane(right_at.lane).right[right_at.element];
            }
        }
    });
}
#endif

// The block of the right factor whose columns are 16 rows in shared memory, from `at` on and `stride` elements apart.
template <class T>
__device__ inline Right columns_at(const T* at, int stride) {
    const int lane = threadIdx.x % WARP;
    Right right;
    load_matrices(right.pairs, at + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
    return right;
}

// The block of the right factor whose rows they are.
template <class T>
__device__ inline Right rows_at(const T* at, int stride) {
    const int lane = threadIdx.x % WARP;
    Right right;
    load_transposed(right.pairs, at + lane % 16 * stride + lane / 16 * 8);
    return right;
}

// Sums as a left factor, rounded.
template <class T>
__device__ inline Left as_left(const Sums& sums) {
    Left left;
    for (int p = 0; p < PAIRS; p++) left.pairs[p] = packed<T>(sums.of[2 * p], sums.of[2 * p + 1]);
    return left;
}
