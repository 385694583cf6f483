// The permutohedral lattice of a picture: which vertices there are, which are neighbours, where every pixel lies.
//
// Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). A point
// of D features is lifted onto the plane x0 + ... + xD = 0; the simplex around it has D + 1 vertices, one of every
// remainder class k, whose coordinates are all congruent to k modulo D + 1. So a vertex is packed into 64 bits, or 128
// for the narrowest kernels: the quotients of D coordinates (the last follows from the sum) or their differences, see
// Layout, in fields of their own, and k in the lowest three bits.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "arrays.h"
#include "vectors.h"

struct TooNarrow : std::range_error {
    using std::range_error::range_error;
};

// The order in which pixels are visited: strip after strip, each from top to bottom. The vertices under a strip fit
// into a core's cache, those under whole rows do not.
struct Raster {
    size_t height, width;
    static constexpr size_t STRIP = 64;

    size_t pixels() const { return height * width; }

    // Calls `visit(number, x, y, count, above)` for every row of every strip: pixels from (x, y) to the right, and the
    // number of the pixel over the first, negative if there is none.
    template <class Visit>
    void rows(Visit visit) const {
        size_t number = 0;
        for (size_t left = 0; left < width; left += STRIP) {
            const int across = width - left < STRIP ? int(width - left) : int(STRIP);
            for (size_t y = 0; y < height; ++y, number += across)
                visit(number, left, y, across, y ? ptrdiff_t(number - across) : -1);
        }
    }
};

// From hashes to numbers, twelve of them in a cache line with a byte each of their hashes. What the numbers stand for
// is the caller's: `same(number)` tells whether it is what is looked for. A mispredicted branch is dearer than many
// comparisons, so a look at a line has hardly any.
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

    // Makes room for `count` numbers, or for `expected` if all have to move; `hash_of(number)` is asked for then.
    template <class HashOf>
    void reserve(size_t count, size_t expected, HashOf hash_of) {
        if (count <= 8 * lines_.size()) return;
        Table larger(expected > 9 * lines_.size() ? expected : 9 * lines_.size());
        for (size_t i = 0; i < lines_.size(); ++i)
            for (int k = 0; k < lines_[i].count; ++k) larger.put(hash_of(lines_[i].numbers[k]), lines_[i].numbers[k]);
        lines_ = std::move(larger.lines_);
    }

    // The number that is the `same`, or `fresh`, which is entered. `same(0)` may be asked at any time.
    template <class Same>
    int32_t enter(uint64_t hash, int32_t fresh, Same same) {
        Line& line = lines_[home(hash)];
        const uint32_t equal = line.equal(tag(hash)), others = equal & (equal - 1);
        const int32_t first = line.numbers[__builtin_ctz(equal | 1u << 11)];
        if ((equal != 0) & same(first)) return first;
        if (__builtin_expect((others != 0) | (line.count == 12), 0)) return search(hash, fresh, same);
        line.tags[line.count] = tag(hash);
        line.numbers[line.count++] = fresh;
        return fresh;
    }

private:
    struct Line {
        uint8_t tags[12];
        int32_t count;
        int32_t numbers[12];

        // Bit k: tag k is that one.
        uint32_t equal(uint8_t tag) const {
            uint32_t bits = 0;
#if defined(__SSE2__)
            const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tags));
            bits = _mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_set1_epi8(char(tag))));
#else
            for (int k = 0; k < 12; ++k) bits |= uint32_t(tags[k] == tag) << k;
#endif
            return bits & ((1u << count) - 1);
        }
    };

    size_t home(uint64_t hash) const { return (hash >> 32) * lines_.size() >> 32; }
    size_t after(size_t line) const { return line + 1 < lines_.size() ? line + 1 : 0; }
    static uint8_t tag(uint64_t hash) { return uint8_t(hash); }

    template <class Same>
    __attribute__((noinline)) int32_t search(uint64_t hash, int32_t fresh, Same same) {
        for (size_t at = home(hash);; at = after(at)) {
            const Line& line = lines_[at];
            for (uint32_t left = line.equal(tag(hash)); left; left &= left - 1)
                if (same(line.numbers[__builtin_ctz(left)])) return line.numbers[__builtin_ctz(left)];
            if (line.count < 12) break;
        }
        put(hash, fresh);
        return fresh;
    }

    void put(uint64_t hash, int32_t number) {
        size_t at = home(hash);
        while (lines_[at].count == 12) at = after(at);
        Line& line = lines_[at];
        line.tags[line.count] = tag(hash);
        line.numbers[line.count++] = number;
    }

    Array<Line> lines_;
};

// Where the rows of vertices lie that follow each other along one direction, chain after chain: see `address`. The last
// of a chain has its lowest bit set; vertices without a neighbour are in no chain.
typedef Array<uint32_t> Chains;
constexpr uint32_t LAST = 1;
constexpr float HALF[2] = {0.5f, 0.f};

// Where a vertex's row of so many channels begins, by the offset in bytes that it has in rows of one: the machine
// multiplies by a few channels on the way. `offset` may be an entry of Chains, for what is only prefetched.
template <class Float>
inline Float* address(Float* rows, uint32_t offset, size_t channels = 1) {
    typedef std::conditional_t<std::is_const<Float>::value, const char, char> Byte;
    return reinterpret_cast<Float*>(reinterpret_cast<Byte*>(rows) + size_t(offset) * channels);
}

template <int D>
struct Lattice {
    static constexpr int CORNERS = D + 1;

    size_t pixels = 0;
    int32_t vertices = 0;
    Array<uint32_t> corners;  // [pixels, CORNERS]: vertices of the simplex around a pixel, see `address`
    Array<float> weights;     // [pixels, CORNERS]: barycentric coordinate times normalisation
    Chains chains[CORNERS];   // of every direction

    // Slicing has to be scaled by this (Adams et al., section on the blur's gain).
    static constexpr float alpha() { return 1.f / (1.f + 1.f / (1 << D)); }
};

// Every value plus half of its two neighbours', in place. Chains are short: a branch at their ends would cost more.
inline void blur_numbers(const Chains& chains, float* values) {
    const size_t count = chains.size();
    if (!count) return;
    const uint32_t* const entries = chains.data();
    auto vertex = [&](size_t i) { return address(values, entries[i] & ~LAST); };
    float *at = vertex(0), here = *at, half_before = 0;
    for (size_t i = 0; i < count; ++i) {
        float* const next = vertex(i + 1 < count ? i + 1 : i);
        const float after = *next, half = HALF[entries[i] & LAST], half_here = half * here;
        *at = fma(half, after, here + half_before);
        half_before = half_here, here = after, at = next;
    }
}

// Scales of the features, and how the coordinates of a vertex share the bits of its key.
//
// The highest fields hold differences of quotients, which follow the position alone (the first two features): vertices
// whose keys are near then are near in the picture as well, and so in memory. The others hold the quotients.
template <int D>
struct Layout {
    static constexpr int PLACES = D > 2 ? 2 : 1;
    float scale[D];
    int32_t least[D];
    int shift[D];
    int bits = 3;

    // `low` and `high` bound the features over the whole picture; every field has room for the corners of all
    // simplices and their neighbours. Throws TooNarrow when floats cannot tell the coordinates apart.
    Layout(const float* low, const float* high) {
        const float deviation = std::sqrt(2.0 / 3.0) * (D + 1);
        for (int i = 0; i < D; ++i) scale[i] = 1.0 / std::sqrt(double((i + 1) * (i + 2))) * deviation;
        for (int j = D - 1; j >= 0; --j) {
            double from[2] = {}, to[2] = {};  // of the coordinate, of its difference to the next one
            auto add = [&](int of, int i, double factor) {
                const double a = factor * low[i] * scale[i], b = factor * high[i] * scale[i];
                from[of] += a < b ? a : b, to[of] += a < b ? b : a;
            };
            for (int i = j; i < D; ++i) add(0, i, 1);
            if (j > 0) add(0, j - 1, -j), add(1, j - 1, -j);
            add(1, j, j + 2);
            if (!(to[0] / (D + 1) < 2e6 && from[0] / (D + 1) > -2e6)) throw TooNarrow("coordinates");
            const bool place = j < PLACES;
            least[j] = int32_t(std::floor(from[place] / (D + 1))) - 6;
            const int32_t range = int32_t(std::ceil(to[place] / (D + 1))) + 6 - least[j];
            shift[j] = bits;
            while ((int64_t(1) << (bits - shift[j])) <= range) ++bits;
        }
    }

    // What coordinate i adds to field j.
    static constexpr int part(int i, int j) { return i == j ? 1 : i == j + 1 && j < PLACES ? -1 : 0; }
};

template <int D, class Key>
class LatticeBuilder {
public:
    typedef typename Lanes<WIDTH>::Float F;
    typedef typename Lanes<WIDTH>::Int I;
    typedef typename Lanes<WIDTH>::Long L;

    LatticeBuilder(size_t pixels, const Layout<D>& layout)
        : layout_(layout), vertices_(pixels / 16), recent_(RECENT, -1) {
        lattice_.pixels = pixels;
        lattice_.corners = Array<uint32_t>(pixels * CORNERS);
        lattice_.weights = Array<float>(pixels * CORNERS);
        for (int i = 0; i < D; ++i) {
            for (int j = 0; j < D; ++j) unit_[i] += Key(layout.part(i, j)) << layout.shift[j];
            all_ += unit_[i];
        }
    }

    // Adds the pixels of a strip's row, see Raster::rows. `features(x, y, count, float[D][STRIP])` gives theirs.
    template <class Features>
    void add(size_t number, size_t x, size_t y, int count, ptrdiff_t above, Features features) {
        done_ = number + count;
        std::swap(here_, over_);
        features(x, y, count, features_);
        for (int start = 0; start < count; start += WIDTH) {
            F point[D];
            for (int i = 0; i < D; ++i) point[i] = load<F>(features_[i] + start);
            const int real = count - start < WIDTH ? count - start : WIDTH;
            place(point, start, &lattice_.weights[(number + start) * CORNERS], real);
        }
        if (above < 0) std::memset(static_cast<void*>(over_), -1, sizeof(Ids));  // no simplex has that one
        // Pixels whose corners are taken over, most of them from the left, from above or from not far away.
        int32_t source[Raster::STRIP];
        for (int i = 0; i < count; ++i) {
            const int32_t own = int32_t(number) + i;
            const bool as_above = here_[i] == over_[i], as_left = i > 0 && here_[i] == here_[i - 1];
            source[i] = as_left ? own - 1 : as_above ? int32_t(above) + i : own;
            fresh_[waiting_] = i;
            waiting_ += !(as_left | as_above);
        }
        int unknown = 0;
        for (int k = 0; k < waiting_; ++k) {
            const int i = fresh_[k];
            Recent& recent = recent_[Table::hash(here_[i]) / (UINT64_MAX / RECENT + 1)];
            const bool known = recent.id == here_[i];
            source[i] = known ? recent.pixel : source[i];
            recent = {here_[i], source[i]};
            fresh_[unknown] = i;
            unknown += !known;
        }
        waiting_ = unknown;
        uint32_t* const corners = lattice_.corners.data();
        resolve(corners + number * CORNERS);
        typedef std::array<uint32_t, CORNERS> Corners;
        for (int i = 0; i < count; ++i)
            store(corners + (number + i) * CORNERS, load<Corners>(corners + size_t(source[i]) * CORNERS));
    }

    // Adds the vertices around one point that is no pixel.
    void add_vertices(const F* features) {
        float weights[CORNERS];
        uint32_t corners[CORNERS];
        place(features, 0, weights, 1);
        fresh_[0] = 0, waiting_ = 1;
        resolve(corners);
    }

    Lattice<D> finish() {
        lattice_.vertices = int32_t(vertex_keys_.size());
        vertices_ = Table(0);
        recent_ = Array<Recent>();
        connect();
        vertex_keys_ = Array<Key>();
        normalise();
        return std::move(lattice_);
    }

private:
    static constexpr int CORNERS = D + 1, GROUP = 3, AHEAD = 24, RECENT = 1 << 13;

    typedef Key Ids[Raster::STRIP];

    // The simplex last met with some hash, and the pixel that it was around.
    struct Recent {
        Key id;
        int32_t pixel;
    };

    // Neighbours along a direction.
    struct Links {
        Array<int32_t> after;     // [vertices]: the next one, negative if there is none
        Array<uint8_t> preceded;  // [vertices]: whether there is one before
    };

    // Finds the simplices and the weights of WIDTH points. A simplex is known by the key of its corner of class 0 and
    // the ranks of the coordinates, three bits each; the first of them takes the place of the class, the others that
    // above the key. The order of the operations is pydensecrf's, so that points on a border between simplices fall to
    // the same side.
    void place(const F* features, int start, float* weights, int count) {
        const F inverse = F{} + 1.f / CORNERS;
        F elevated[CORNERS], quotient[CORNERS], remainder[CORNERS];
        F partial = {};
        for (int j = D; j > 0; --j) {
            const F scaled = features[j - 1] * layout_.scale[j - 1];
            elevated[j] = partial - float(j) * scaled;
            partial += scaled;
        }
        elevated[0] = partial;
        F excess = {};
        for (int i = 0; i < CORNERS; ++i) {
            quotient[i] = nearest(inverse * elevated[i]);
            remainder[i] = elevated[i] - quotient[i] * float(CORNERS);
            excess += quotient[i];
        }
        I rank[CORNERS] = {};
        for (int i = 0; i < D; ++i)
            for (int j = i + 1; j < CORNERS; ++j) {
                const I behind = I(remainder[i] < remainder[j]);
                rank[i] -= behind;
                rank[j] += behind + 1;
            }
        const I off = __builtin_convertvector(excess, I);
        F value[CORNERS];
        L key = {};
        I order = {}, field[CORNERS];
        for (int i = 0; i < CORNERS; ++i) {
            rank[i] += off;
            const I step = I(rank[i] >= CORNERS) - I(rank[i] < 0);
            rank[i] += step * CORNERS;
            field[i] = __builtin_convertvector(quotient[i], I) + step;
            value[i] = (elevated[i] - __builtin_convertvector(field[i] * CORNERS, F)) * inverse;
            if (i < D) order |= rank[i] << (3 * i);
        }
        for (int i = 0; i < D; ++i) {
            field[i] -= (i < Layout<D>::PLACES ? field[i + 1] : I{}) + layout_.least[i];
            if (sizeof(Key) == 8) key += __builtin_convertvector(field[i], L) << layout_.shift[i];
        }
        F sorted[CORNERS];
        for (int r = 0; r < CORNERS; ++r) {
            I bits = {};
            for (int i = 0; i < CORNERS; ++i) bits |= I(rank[i] == r) & bits_of<I>(value[i]);
            sorted[r] = bits_of<F>(bits);
        }
        float weight[CORNERS][WIDTH];
        store(weight[0], sorted[D] + (1.f - sorted[0]));
        for (int k = 1; k < CORNERS; ++k) store(weight[k], sorted[D - k] - sorted[D - k + 1]);
        for (int lane = 0; lane < count; ++lane)
            for (int k = 0; k < CORNERS; ++k) weights[lane * CORNERS + k] = weight[k][lane];
        if (sizeof(Key) == 8) {
            key += __builtin_convertvector(order & 7, L);
            key += __builtin_convertvector(order >> 3, L) << layout_.bits;
            std::memcpy(static_cast<void*>(here_ + start), &key, sizeof(key));
        } else {
            for (int lane = 0; lane < WIDTH; ++lane) {
                Key& id = here_[start + lane] = Key(order[lane] & 7) | Key(order[lane] >> 3) << layout_.bits;
                for (int i = 0; i < D; ++i) id += Key(field[i][lane]) << layout_.shift[i];
            }
        }
    }

    // How many vertices there will be if `count` are known by now, were the picture the same everywhere. The first rows
    // say little of the others.
    size_t expected(size_t count) const {
        return size_t(double(count) * std::min(1.05 * double(lattice_.pixels) / double(done_), 4.));
    }

    // Finds or enters the corners of the simplices that wait for them, of the pixels `fresh_` of this row.
    void resolve(uint32_t* row) {
        const int count = waiting_ * CORNERS;
        for (int i = 0; i < waiting_; ++i) {
            const Key id = here_[fresh_[i]];
            const uint32_t order = uint32_t(id & 7) | uint32_t(id >> layout_.bits) << 3;
            Key step[8] = {}, *keys = keys_ + i * CORNERS;
            for (int k = 0; k < D; ++k) step[order >> (3 * k) & 7] = unit_[k];
            keys[0] = id & ((Key(1) << layout_.bits) - 8);
            for (int k = 1; k < CORNERS; ++k) keys[k] = keys[k - 1] - step[CORNERS - k] + 1;
            for (int k = 0; k < CORNERS; ++k) hashes_[i * CORNERS + k] = Table::hash(keys[k]);
        }
        const int32_t known = int32_t(vertex_keys_.size());
        const size_t all = expected(known + count);
        Key* const end = vertex_keys_.room(count, all);
        const Key* const vertex_keys = vertex_keys_.data();
        vertices_.reserve(known + count, all, [&](int32_t v) { return Table::hash(vertex_keys[v]); });
        for (int i = 0; i < AHEAD && i < count; ++i) vertices_.prefetch(hashes_[i]);
        int added = 0;
        for (int i = 0, at = 0; i < waiting_; ++i) {
            uint32_t* const corners = row + fresh_[i] * CORNERS;
            for (int k = 0; k < CORNERS; ++k, ++at) {
                vertices_.prefetch(hashes_[at + AHEAD < count ? at + AHEAD : at]);
                const Key key = keys_[at];
                const int32_t vertex =
                    vertices_.enter(hashes_[at], known + added, [&](int32_t v) { return vertex_keys[v] == key; });
                corners[k] = uint32_t(vertex) * sizeof(float);
                end[added] = key;
                added += vertex == known + added;
            }
        }
        vertex_keys_.extend(added);
        waiting_ = 0;
    }

    // Sorts the keys of the vertices, `numbers` with them, class after class: the class moves from the lowest bits to
    // above the highest.
    void sort(Array<int32_t>& numbers) {
        const size_t count = lattice_.vertices;
        const int bits = layout_.bits, passes = (bits + 10) / 11, digit = (bits + passes - 1) / passes;
        for (size_t i = 0; i < count; ++i) {
            vertex_keys_[i] += (vertex_keys_[i] & 7) * ((Key(1) << bits) - 1);
            numbers[i] = int32_t(i);
        }
        Array<Key> other_keys(count + 1);
        Array<int32_t> other_numbers(count + 1);
        for (int shift = 3; shift < bits + 3; shift += digit) {
            const uint32_t mask = (1u << digit) - 1;
            uint32_t starts[1 << 11] = {}, start = 0;
            for (size_t i = 0; i < count; ++i) ++starts[uint32_t(vertex_keys_[i] >> shift) & mask];
            for (uint32_t& bucket : starts) bucket = (start += bucket) - bucket;
            for (size_t i = 0; i < count; ++i) {
                const uint32_t to = starts[uint32_t(vertex_keys_[i] >> shift) & mask]++;
                other_keys[to] = vertex_keys_[i];
                other_numbers[to] = numbers[i];
            }
            std::swap(vertex_keys_, other_keys);
            std::swap(numbers, other_numbers);
        }
    }

    // Finds the successors of some vertices along a direction: those whose key is that of the vertex plus `step`. As
    // the keys are sorted, this is a merge. A step of it has no branch, and directions take turns, so that none waits
    // for the loads of its own last step.
    struct Merge {
        size_t i, j;
        Key step;
        int32_t* after;
        uint8_t* preceded;

        void advance(const Key* keys, const int32_t* numbers) {
            const Key wanted = keys[i] + step, found = keys[j];
            const int32_t successor = numbers[j];
            after[numbers[i]] = wanted == found ? successor : -1;
            preceded[successor] = wanted == found;
            i += wanted <= found;
            j += found <= wanted;
        }
    };

    void merge(const Array<int32_t>& numbers, size_t from, size_t end, size_t to, const Key* steps, Links* links) {
        const Key* const k = vertex_keys_.data();
        const int32_t* const n = numbers.data();
        Merge a{from, to, steps[0], links[0].after.data(), links[0].preceded.data()};
        Merge b{from, to, steps[1], links[1].after.data(), links[1].preceded.data()};
        Merge c{from, to, steps[2], links[2].after.data(), links[2].preceded.data()};
        while ((a.i < end) & (b.i < end) & (c.i < end)) a.advance(k, n), b.advance(k, n), c.advance(k, n);
        while (a.i < end) a.advance(k, n);
        while (b.i < end) b.advance(k, n);
        while (c.i < end) c.advance(k, n);
    }

    // Chains start in the order of their first vertices, the heads. Until they are needed these are kept at the end of
    // the array that they leave behind: a chain has two entries at least, so it is never written faster than read.
    void chain(Links* links, Chains* chains) {
        const int32_t count = lattice_.vertices;
        const int32_t* after[GROUP];
        const uint32_t* head[GROUP];
        uint32_t at[GROUP], *end[GROUP];
        size_t shortest = SIZE_MAX;
        for (int g = 0; g < GROUP; ++g) {
            after[g] = links[g].after.data();
            const uint8_t* const preceded = links[g].preceded.data();
            int32_t heads = 0, entries = 0;
            for (int32_t i = 0; i < count; ++i) {
                heads += (after[g][i] >= 0) & !preceded[i];
                entries += after[g][i] >= 0;
            }
            entries += heads;
            chains[g].room(entries + 1);
            end[g] = chains[g].extend(entries);
            uint32_t* const first = end[g] + entries - heads;
            heads = 0;
            for (int32_t i = 0; i < count; ++i) {
                first[heads] = i;
                heads += (after[g][i] >= 0) & !preceded[i];
            }
            first[heads] = 0;
            head[g] = first;
            at[g] = *head[g]++;
            shortest = chains[g].size() < shortest ? chains[g].size() : shortest;
        }
        auto advance = [&](int g) {
            const int32_t next = after[g][at[g]];
            const bool last = next < 0;
            *end[g]++ = at[g] * sizeof(float) + last * LAST;
            at[g] = last ? *head[g] : next;
            head[g] += last;
        };
        for (size_t k = 0; k < shortest; ++k)
            for (int g = 0; g < GROUP; ++g) advance(g);
        for (int g = 0; g < GROUP; ++g)
            for (size_t k = shortest; k < chains[g].size(); ++k) advance(g);
    }

    // The next vertex along a direction has one less in every coordinate, and D more in that of the direction. So its
    // class is one less, or D after 0, and its key that of the vertex plus a constant.
    void connect() {
        const size_t count = lattice_.vertices;
        Array<int32_t> numbers(count + 1);
        vertex_keys_.extend(1);
        sort(numbers);
        vertex_keys_[count] = ~Key(0), numbers[count] = int32_t(count);
        const Key one = Key(1) << layout_.bits;
        const Key* keys = vertex_keys_.data();
        const size_t first = std::lower_bound(keys, keys + count, one) - keys;
        const size_t last = std::lower_bound(keys, keys + count, D * one) - keys;
        Links links[GROUP];
        for (Links& link : links) link.after = Array<int32_t>(count + 1);
        for (int j = 0; j < CORNERS; j += GROUP) {
            Key step[GROUP], round[GROUP];
            for (int g = 0; g < GROUP; ++g) {
                step[g] = unit_[j + g] - one;
                round[g] = unit_[j + g] - all_ + D * one;
                links[g].preceded = Array<uint8_t>(count + 1, 0);
            }
            merge(numbers, first, count, 0, step, links);
            merge(numbers, 0, first, last, round, links);
            chain(links, lattice_.chains + j);
        }
    }

    // Symmetric normalisation (Krähenbühl, Koltun 2011): weights become b / sqrt(K 1), K without normalisation.
    void normalise() {
        Array<float> values(lattice_.vertices, 0);
        const size_t taps = lattice_.pixels * CORNERS;
        for (size_t i = 0; i < taps; ++i) *address(values.data(), lattice_.corners[i]) += lattice_.weights[i];
        for (const Chains& chains : lattice_.chains) blur_numbers(chains, values.data());
        for (size_t i = 0; i < taps; i += CORNERS) {
            const uint32_t* corner = &lattice_.corners[i];
            float* weight = &lattice_.weights[i];
            float total = 0;
            for (int k = 0; k < CORNERS; ++k) total += weight[k] * *address(values.data(), corner[k]);
            const float norm = 1.f / std::sqrt(total * Lattice<D>::alpha() + 1e-20f);
            for (int k = 0; k < CORNERS; ++k) weight[k] *= norm;
        }
    }

    const Layout<D>& layout_;
    Lattice<D> lattice_;
    Table vertices_;
    Array<Key> vertex_keys_;
    Array<Recent> recent_;
    float features_[D][Raster::STRIP] = {};
    Ids rows_[2];
    Key *here_ = rows_[0], *over_ = rows_[1];  // simplices of this row and of the last
    size_t done_ = 0;                          // pixels
    int fresh_[Raster::STRIP], waiting_ = 0;   // pixels of this row whose corners are not known, and how many
    uint64_t hashes_[Raster::STRIP * CORNERS];
    Key keys_[Raster::STRIP * CORNERS];
    Key unit_[CORNERS] = {}, all_ = 0;
};

// The lattice of a picture; `features(x, y, count, float[D][STRIP])` gives those of pixels from (x, y) to the right.
template <int D, class Key, class Features>
Lattice<D> build_with(const Raster& raster, const Layout<D>& layout, Features features) {
    LatticeBuilder<D, Key> builder(raster.pixels(), layout);
    raster.rows([&](size_t number, size_t x, size_t y, int across, ptrdiff_t above) {
        builder.add(number, x, y, across, above, features);
    });
    // pydensecrf fills its last group of four with points at the origin, and their vertices take part in the blur.
    const typename Lanes<WIDTH>::Float origin[D] = {};
    if (raster.pixels() % 4) builder.add_vertices(origin);
    return builder.finish();
}

template <int D, class Features>
Lattice<D> build(const Raster& raster, const float* low, const float* high, Features features) {
    const Layout<D> layout(low, high);
    if (layout.bits + 3 * (D - 1) <= 64) return build_with<D, uint64_t>(raster, layout, features);
    return build_with<D, unsigned __int128>(raster, layout, features);
}
