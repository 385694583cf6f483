// A hash table from keys to the numbers that stand for them. It holds the numbers only: the keys are the caller's.
#pragma once

#include "arrays.h"
#include "vectors.h"

namespace crf {

// A line is one cache line: up to twelve numbers, and one byte of the hash of each. A mispredicted branch costs more
// than many comparisons, so looking at a line hardly branches at all. Full lines overflow into the next one.
class Table {
public:
    explicit Table(size_t expected) : lines_(expected / 6 + 16, 0) {}

    static uint64_t hash(unsigned __int128 key) {
        return hash(uint64_t(key) ^ uint64_t(key >> 64) * 0xC2B2AE3D27D4EB4Fu);
    }

    static uint64_t hash(uint64_t key) {
        const uint64_t product = key * 0x9E3779B97F4A7C15u;
        return product ^ (product >> 32);
    }

    void prefetch(uint64_t hash) const { __builtin_prefetch(&lines_[home(hash)]); }

    // Makes room for `count` numbers. If all of them have to move, it asks for `hash_of(number)` and makes room for
    // `expected` at once.
    template <class HashOf>
    void reserve(size_t count, size_t expected, HashOf hash_of) {
        if (count <= 8 * lines_.size()) return;
        Table larger(expected > 9 * lines_.size() ? expected : 9 * lines_.size());
        for (size_t i = 0; i < lines_.size(); ++i) {
            for (int k = 0; k < lines_[i].count; ++k) larger.put(hash_of(lines_[i].numbers[k]), lines_[i].numbers[k]);
        }
        lines_ = std::move(larger.lines_);
    }

    // The number whose key is the one looked for, which `same(number)` decides. If there is none, enters and returns
    // `fresh`. `same(0)` may be asked at any time.
    template <class Same>
    int32_t enter(uint64_t hash, int32_t fresh, Same same) {
        Line& line = lines_[home(hash)];
        const uint32_t candidates = line.with_tag(tag(hash));
        const uint32_t others = candidates & (candidates - 1);
        const int32_t first = line.numbers[__builtin_ctz(candidates | 1u << (SLOTS - 1))];
        if ((candidates != 0) & same(first)) return first;
        if (__builtin_expect((others != 0) | (line.count == SLOTS), 0)) return search(hash, fresh, same);
        line.append(tag(hash), fresh);
        return fresh;
    }

private:
    static constexpr int SLOTS = 12;

    struct Line {
        uint8_t tags[SLOTS];
        int32_t count;
        int32_t numbers[SLOTS];

        // Bit k is set where tag k equals `tag`.
        uint32_t with_tag(uint8_t tag) const {
            uint32_t bits = 0;
#if defined(__SSE2__)
            const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tags));
            bits = _mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_set1_epi8(char(tag))));
#else
            for (int k = 0; k < SLOTS; ++k) bits |= uint32_t(tags[k] == tag) << k;
#endif
            return bits & ((1u << count) - 1);
        }

        void append(uint8_t tag, int32_t number) {
            tags[count] = tag;
            numbers[count] = number;
            ++count;
        }
    };
    static_assert(sizeof(Line) == 64);

    size_t home(uint64_t hash) const { return (hash >> 32) * lines_.size() >> 32; }
    size_t after(size_t line) const { return line + 1 < lines_.size() ? line + 1 : 0; }
    static uint8_t tag(uint64_t hash) { return uint8_t(hash); }

    // `enter` for the rare case that the first candidate of the line does not decide.
    template <class Same>
    __attribute__((noinline)) int32_t search(uint64_t hash, int32_t fresh, Same same) {
        for (size_t i = home(hash);; i = after(i)) {
            const Line& line = lines_[i];
            for (uint32_t candidates = line.with_tag(tag(hash)); candidates; candidates &= candidates - 1) {
                const int32_t number = line.numbers[__builtin_ctz(candidates)];
                if (same(number)) return number;
            }
            if (line.count < SLOTS) break;
        }
        put(hash, fresh);
        return fresh;
    }

    void put(uint64_t hash, int32_t number) {
        size_t i = home(hash);
        while (lines_[i].count == SLOTS) i = after(i);
        lines_[i].append(tag(hash), number);
    }

    Array<Line> lines_;
};

}  // namespace crf
