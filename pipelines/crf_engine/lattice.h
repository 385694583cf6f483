// The permutohedral lattice of a picture: which vertices there are, which are neighbours, where every pixel lies.
//
// Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). A point
// of D features is lifted onto the plane x0 + ... + xD = 0; the simplex around it has D + 1 vertices, one of every
// remainder class k, whose coordinates are all congruent to k modulo D + 1. So a vertex is packed into 64 bits, or 128
// for the narrowest kernels: the quotients of D coordinates in fields of their own (the last follows from the sum) and
// k in the lowest three bits.
#pragma once

#include <cmath>
#include <stdexcept>

#include "memory.h"
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
// is the caller's: `same(number)` tells whether it is what is looked for. Misses are as frequent as hits here, and
// mispredicted branches dearer than comparisons, so a look at a line has hardly any.
class Table {
public:
    explicit Table(size_t expected) {
        while ((size_t(6) << bits_) < expected) ++bits_;
        lines_ = Array<Line>(size_t(1) << bits_, 0);
    }

    static uint64_t hash(unsigned __int128 key, uint32_t order = 0) {
        return hash(uint64_t(key) ^ uint64_t(key >> 64) * 0xC2B2AE3D27D4EB4Fu, order);
    }

    static uint64_t hash(uint64_t key, uint32_t order = 0) {
        const uint64_t product = (key ^ (uint64_t(order) << 40)) * 0x9E3779B97F4A7C15u;
        return product ^ (product >> 32);
    }

    // -1: not there.
    template <class Same>
    int32_t find(uint64_t hash, Same same) const {
        const size_t mask = lines_.size() - 1;
        for (size_t at = home(hash);; at = (at + 1) & mask) {
            const Line& line = lines_[at];
            const uint32_t equal = line.equal(tag(hash)), others = equal & (equal - 1);
            const int32_t first = line.numbers[__builtin_ctz(equal | 1u << 11)];
            const bool hit = equal && same(first);
            if (__builtin_expect(hit | ((others == 0) & (line.count < 12)), 1)) return hit ? first : -1;
            for (uint32_t left = others; left; left &= left - 1)
                if (same(line.numbers[__builtin_ctz(left)])) return line.numbers[__builtin_ctz(left)];
            if (line.count < 12) return -1;
        }
    }

    void prefetch(uint64_t hash) const { __builtin_prefetch(&lines_[home(hash)]); }

    // Enters a number that is not there; `hash_of(number)` is asked for when all have to move.
    template <class HashOf>
    void insert(uint64_t hash, int32_t number, HashOf hash_of) {
        put(hash, number);
        if (++count_ <= 7 * lines_.size()) return;
        Table larger(12 * lines_.size());
        for (size_t i = 0; i < lines_.size(); ++i)
            for (int k = 0; k < lines_[i].count; ++k) larger.put(hash_of(lines_[i].numbers[k]), lines_[i].numbers[k]);
        bits_ = larger.bits_;
        lines_ = std::move(larger.lines_);
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

    size_t home(uint64_t hash) const { return hash >> 8 & (lines_.size() - 1); }
    static uint8_t tag(uint64_t hash) { return uint8_t(hash); }

    void put(uint64_t hash, int32_t number) {
        size_t at = home(hash);
        while (lines_[at].count == 12) at = (at + 1) & (lines_.size() - 1);
        Line& line = lines_[at];
        line.tags[line.count] = tag(hash);
        line.numbers[line.count++] = number;
    }

    int bits_ = 4;
    size_t count_ = 0;
    Array<Line> lines_;
};

// Vertices that follow each other along one direction, chain after chain. The last of a chain is stored as its
// complement; vertices without a neighbour are in no chain.
typedef Array<int32_t> Chains;
constexpr float HALF[2] = {0.5f, 0.f};

template <int D>
struct Lattice {
    static constexpr int CORNERS = D + 1;

    size_t pixels = 0;
    int32_t vertices = 0;
    Array<int32_t> simplex;        // [pixels]: number of the simplex
    Array<float> weights;          // [pixels, CORNERS]: barycentric coordinate times normalisation
    Array<int32_t> corners;        // [simplices, CORNERS]: vertices of a simplex
    Chains chains[CORNERS];        // of every direction

    // Slicing has to be scaled by this (Adams et al., section on the blur's gain).
    static constexpr float alpha() { return 1.f / (1.f + 1.f / (1 << D)); }
};

// Every value plus half of its two neighbours', in place. Chains are short: a branch at their ends would cost more.
inline void blur_numbers(const Chains& chains, float* values) {
    const size_t count = chains.size();
    float before = 0, half_before = 0, here = count ? values[chains[0] ^ chains[0] >> 31] : 0;
    for (size_t i = 0; i < count; ++i) {
        const int32_t entry = chains[i], successor = chains[i + 1 < count ? i + 1 : i];
        const float after = values[successor ^ successor >> 31], half_after = HALF[entry < 0];
        values[entry ^ entry >> 31] = here + (half_before * before + half_after * after);
        before = here, here = after, half_before = half_after;
    }
}

// Scales of the features, and how the quotients of a vertex share the bits of its key.
template <int D>
struct Layout {
    float scale[D];
    int32_t least[D];
    int shift[D];
    int bits = 3;

    // `low` and `high` bound the features over the whole picture; every field has room for the corners of all
    // simplices and their neighbours. Throws TooNarrow when floats cannot tell the coordinates apart.
    Layout(const float* low, const float* high) {
        const float deviation = std::sqrt(2.0 / 3.0) * (D + 1);
        for (int i = 0; i < D; ++i) scale[i] = 1.0 / std::sqrt(double((i + 1) * (i + 2))) * deviation;
        for (int j = 0; j < D; ++j) {
            double from = 0, to = 0;
            for (int i = j; i < D; ++i) from += double(low[i]) * scale[i], to += double(high[i]) * scale[i];
            if (j > 0) from -= j * double(high[j - 1]) * scale[j - 1], to -= j * double(low[j - 1]) * scale[j - 1];
            if (!(to / (D + 1) < 2e6 && from / (D + 1) > -2e6)) throw TooNarrow("coordinates");
            least[j] = int32_t(std::floor(from / (D + 1))) - 4;
            const int32_t range = int32_t(std::ceil(to / (D + 1))) + 4 - least[j];
            shift[j] = bits;
            while ((int64_t(1) << (bits - shift[j])) <= range) ++bits;
        }
    }
};

template <int D, class Key>
class LatticeBuilder {
public:
    typedef typename Lanes<WIDTH>::Float F;
    typedef typename Lanes<WIDTH>::Int I;
    typedef typename Lanes<WIDTH>::Long L;

    LatticeBuilder(size_t pixels, const Layout<D>& layout)
        : layout_(layout),
          simplices_(pixels / 4),
          vertices_(pixels / 4) {
        lattice_.pixels = pixels;
        lattice_.simplex = Array<int32_t>(pixels);
        lattice_.weights = Array<float>(pixels * CORNERS);
        lattice_.corners.expect(pixels * CORNERS);
        identities_.expect(pixels);
        vertex_keys_.expect(2 * pixels);
        for (int j = 0; j < D; ++j) unit_[j] = Key(1) << layout.shift[j], all_ += unit_[j];
    }

    // Adds the pixels of a strip's row, see Raster::rows. `features(x, y, count, F[D])` gives those of up to WIDTH.
    template <class Features>
    void add(size_t number, size_t x, size_t y, int count, ptrdiff_t above, Features features) {
        for (int start = 0; start < count; start += WIDTH) {
            const int real = count - start < WIDTH ? count - start : WIDTH;
            F point[D] = {};
            features(x + start, y, real, point);
            place(point, start, &lattice_.weights[(number + start) * CORNERS], real);
        }
        const Row& over = rows_[1 - now_];
        const Row& row = rows_[now_];
        int32_t* simplex = &lattice_.simplex[number];
        bool as_left[Raster::STRIP];
        int fresh[Raster::STRIP], last = 0;
        for (int i = 0; i < count; ++i) {
            as_left[i] = i > 0 && row.key[i] == row.key[i - 1] && row.order[i] == row.order[i - 1];
            const bool as_above = above >= 0 && row.key[i] == over.key[i] && row.order[i] == over.order[i];
            simplex[i] = above >= 0 ? lattice_.simplex[above + i] : 0;
            fresh[last] = i;
            last += !(as_left[i] | as_above);
        }
        for (int k = 0; k < last; ++k) simplices_.prefetch(Table::hash(row.key[fresh[k]], row.order[fresh[k]]));
        for (int k = 0; k < last; ++k) simplex[fresh[k]] = enter(row.key[fresh[k]], row.order[fresh[k]]);
        for (int i = 1; i < count; ++i) simplex[i] = as_left[i] ? simplex[i - 1] : simplex[i];
        resolve();
        now_ = 1 - now_;
    }

    // Adds the vertices around one point that is no pixel.
    void add_vertices(const F* features) {
        float unused[CORNERS];
        place(features, 0, unused, 1);
        enter(rows_[now_].key[0], rows_[now_].order[0]);
        resolve();
    }

    Lattice<D> finish() {
        lattice_.vertices = int32_t(vertex_keys_.size());
        simplices_ = Table(0);
        identities_ = Array<Identity>();
        connect();
        normalise();
        return std::move(lattice_);
    }

private:
    static constexpr int CORNERS = D + 1, AHEAD = 8;

    struct Identity {
        Key key;
        uint32_t order;
    };

    // A new simplex whose corners are not yet known.
    struct Pending {
        int32_t simplex;
        Key keys[CORNERS];
    };

    struct Row {
        Key key[Raster::STRIP];
        uint32_t order[Raster::STRIP];
    };

    // Finds the simplex (key of its corner of class 0, ranks of the coordinates) and the weights of WIDTH points.
    // The order of the operations is pydensecrf's, so that points on a border between simplices fall to the same side.
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
        I order = {}, steps[D];
        for (int i = 0; i < CORNERS; ++i) {
            rank[i] += off;
            const I step = I(rank[i] >= CORNERS) - I(rank[i] < 0);
            rank[i] += step * CORNERS;
            const I moved = __builtin_convertvector(quotient[i], I) + step;
            value[i] = (elevated[i] - __builtin_convertvector(moved * CORNERS, F)) * inverse;
            if (i < D) {
                steps[i] = moved - layout_.least[i];
                if (sizeof(Key) == 8) key += __builtin_convertvector(steps[i], L) << layout_.shift[i];
                order |= rank[i] << (3 * i);
            }
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
        Row& row = rows_[now_];
        std::memcpy(row.order + start, &order, sizeof(order));
        if (sizeof(Key) == 8) {
            std::memcpy(static_cast<void*>(row.key + start), &key, sizeof(key));
        } else {
            for (int lane = 0; lane < WIDTH; ++lane) {
                row.key[start + lane] = 0;
                for (int i = 0; i < D; ++i) row.key[start + lane] += Key(steps[i][lane]) << layout_.shift[i];
            }
        }
    }

    // The number of a simplex; a new one waits for its corners.
    int32_t enter(Key key, uint32_t order) {
        const uint64_t hash = Table::hash(key, order);
        const int32_t known = simplices_.find(
            hash, [&](int32_t i) { return !((identities_[i].key ^ key) | (identities_[i].order ^ order)); });
        if (known >= 0) return known;
        const int32_t simplex = int32_t(identities_.size());
        *identities_.extend(1) = {key, order};
        simplices_.insert(hash, simplex,
                          [&](int32_t i) { return Table::hash(identities_[i].key, identities_[i].order); });
        lattice_.corners.extend(CORNERS);
        Pending& fresh = waiting_[pending_++];
        fresh.simplex = simplex;
        Key step[8] = {};
        for (int i = 0; i < D; ++i) step[order >> (3 * i) & 7] = unit_[i];
        fresh.keys[0] = key;
        for (int k = 1; k < CORNERS; ++k) fresh.keys[k] = fresh.keys[k - 1] - step[CORNERS - k] + 1;
        for (int k = 0; k < CORNERS; ++k) vertices_.prefetch(Table::hash(fresh.keys[k]));
        return simplex;
    }

    // Finds or enters the corners of the simplices that are new in this row.
    void resolve() {
        for (int i = 0; i < pending_; ++i) {
            int32_t* corners = &lattice_.corners[size_t(waiting_[i].simplex) * CORNERS];
            for (int k = 0; k < CORNERS; ++k) {
                const Key key = waiting_[i].keys[k];
                const uint64_t hash = Table::hash(key);
                int32_t vertex = find(key, hash);
                if (vertex < 0) {
                    vertex = int32_t(vertex_keys_.size());
                    *vertex_keys_.extend(1) = key;
                    vertices_.insert(hash, vertex, [&](int32_t v) { return Table::hash(vertex_keys_[v]); });
                }
                corners[k] = vertex;
            }
        }
        pending_ = 0;
    }

    int32_t find(Key key, uint64_t hash) const {
        return vertices_.find(hash, [&](int32_t v) { return vertex_keys_[v] == key; });
    }

    // Key of the next vertex along a direction: one less in every coordinate, D more in that of the direction.
    Key next(Key key, int direction) const {
        return key & 7 ? key - 1 + unit_[direction] : key + D - all_ + unit_[direction];
    }

    void connect() {
        const int32_t count = lattice_.vertices;
        Array<int32_t> after(count);
        Array<uint8_t> preceded(count + 1);  // element 0 takes those that nothing follows
        for (int j = 0; j < CORNERS; ++j) {
            std::memset(preceded.data(), 0, count + 1);
            for (int32_t i = 0; i < count; ++i) {
                if (i + AHEAD < count) vertices_.prefetch(Table::hash(next(vertex_keys_[i + AHEAD], j)));
                const Key key = next(vertex_keys_[i], j);
                const int32_t found = find(key, Table::hash(key));
                after[i] = found;
                preceded[found + 1] = 1;
            }
            Array<int32_t> chains(count);
            int32_t* end = chains.data();
            for (int32_t i = 0; i < count; ++i) {
                if (preceded[i + 1] | (after[i] < 0)) continue;
                int32_t at = i;
                for (; after[at] >= 0; at = after[at]) *end++ = at;
                *end++ = ~at;
            }
            lattice_.chains[j] = Chains(end - chains.data());
            std::memcpy(lattice_.chains[j].data(), chains.data(), lattice_.chains[j].size() * sizeof(int32_t));
        }
        vertices_ = Table(0);
    }

    // Symmetric normalisation (Krähenbühl, Koltun 2011): weights become b / sqrt(K 1), K without normalisation.
    void normalise() {
        Array<float> values(lattice_.vertices, 0);
        for (size_t i = 0; i < lattice_.pixels; ++i) {
            const int32_t* corner = &lattice_.corners[size_t(lattice_.simplex[i]) * CORNERS];
            for (int k = 0; k < CORNERS; ++k) values[corner[k]] += lattice_.weights[i * CORNERS + k];
        }
        for (const Chains& chains : lattice_.chains) blur_numbers(chains, values.data());
        for (size_t i = 0; i < lattice_.pixels; ++i) {
            const int32_t* corner = &lattice_.corners[size_t(lattice_.simplex[i]) * CORNERS];
            float* weight = &lattice_.weights[i * CORNERS];
            float total = 0;
            for (int k = 0; k < CORNERS; ++k) total += weight[k] * values[corner[k]];
            const float norm = 1.f / std::sqrt(total * Lattice<D>::alpha() + 1e-20f);
            for (int k = 0; k < CORNERS; ++k) weight[k] *= norm;
        }
    }

    const Layout<D>& layout_;
    Lattice<D> lattice_;
    Table simplices_, vertices_;
    Array<Identity> identities_;   // of the simplices
    Array<Key> vertex_keys_;
    Row rows_[2];                  // the last row and this one
    int now_ = 0;
    Pending waiting_[Raster::STRIP];
    int pending_ = 0;
    Key unit_[CORNERS] = {}, all_ = 0;
};

// The lattice of a picture; `features(x, y, count, F[D])` gives those of `count` pixels from (x, y) to the right.
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
    if (layout.bits <= 63) return build_with<D, uint64_t>(raster, layout, features);
    return build_with<D, unsigned __int128>(raster, layout, features);
}
