// The instructions of a warp that `tensor_cores.h` is made of, on the CPU. Who holds which element is as NVIDIA's
// PTX ISA says it, in its formulas; how the kernels use it is not looked at.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

namespace emulated {

// What a thread gives to an instruction of its warp.
struct Given {
    unsigned a[4], b[2];
    const void* row;
};
inline std::vector<Given> given;

// Leaves what this thread gives; the whole warp has done so when it returns.
inline void give(const Given& mine) {
    if (given.size() < fibers.size()) given.resize(fibers.size());
    given[current] = mine;
    wait(Waits::WARP);
}

inline const Given& given_by(unsigned lane) { return given[current / WARP * WARP + lane]; }

// Who holds an element: number `i` of the thread of a lane. A register has two, the first in its low bits.
struct Holder {
    unsigned lane, i;
    uint16_t in(const unsigned* registers) const { return static_cast<uint16_t>(registers[i / 2] >> 16 * (i % 2)); }
};

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".
struct Fragments {
    Holder a[16][16], b[16][8];

    Fragments() {
        for (unsigned lane = 0; lane < WARP; lane++) {
            unsigned group = lane >> 2, within = lane % 4;
            for (unsigned i = 0; i < 8; i++) {
                unsigned row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
                a[row][within * 2 + (i & 1) + (i < 4 ? 0 : 8)] = {lane, i};
            }
            for (unsigned i = 0; i < 4; i++) b[within * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = {lane, i};
        }
    }
};

// mma.sync.aligned.m16n8k16.row.col of numbers that `widen` gives from their bits: sums += a b.
template <typename Widen>
void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], Widen widen) {
    static const Fragments fragments;
    Given mine{};
    std::memcpy(mine.a, a, sizeof(a));
    std::memcpy(mine.b, b, sizeof(b));
    give(mine);
    unsigned group = current % WARP >> 2, within = current % WARP % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = i < 2 ? group : group + 8, column = within * 2 + (i & 1);
        for (unsigned k = 0; k < 16; k++) {
            const Holder &left = fragments.a[row][k], &right = fragments.b[k][column];
            sums[i] += widen(left.in(given_by(left.lane).a)) * widen(right.in(given_by(right.lane).b));
        }
    }
    wait(Waits::WARP);
}

// ldmatrix.sync.aligned.m8n8.x4.b16: lanes 8 i to 8 i + 7 point to the rows of matrix i; register i of a thread gets
// of it the elements lane % 4 * 2 and the next of row lane / 4, or of the transposed matrix.
inline void load_matrices(unsigned (&to)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("a row of a matrix does not begin at 16 bytes");
    Given mine{};
    mine.row = row;
    give(mine);
    unsigned lane = current % WARP;
    for (unsigned i = 0; i < 4; i++) {
        to[i] = 0;
        for (unsigned n = 0; n < 2; n++) {
            unsigned at[2] = {lane / 4, lane % 4 * 2 + n};
            if (transposed) std::swap(at[0], at[1]);
            unsigned element = static_cast<const uint16_t*>(given_by(8 * i + at[0]).row)[at[1]];
            to[i] |= element << 16 * n;
        }
    }
    wait(Waits::WARP);
}

// cp.async of 16 bytes, or of 16 zeros. Nothing arrives before the thread waits for it.
struct Copy {
    void* to;
    const void* from;
};
inline std::map<unsigned, std::vector<Copy>> under_way;

inline void copy_later(void* to, const void* from) {
    auto aligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
    if (!aligned(to) || !aligned(from)) fail("a copy does not begin at 16 bytes");
    under_way[current].push_back({to, from});
}

inline void wait_for_copies() {
    for (Copy copy : under_way[current]) {
        copy.from == nullptr ? std::memset(copy.to, 0, 16) : std::memcpy(copy.to, copy.from, 16);
    }
    under_way[current].clear();
}

}  // namespace emulated
