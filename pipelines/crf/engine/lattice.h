// The permutohedral lattice of an image: its vertices, which of them are neighbours, and where every pixel lies.
//
// Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). A point
// of D features is lifted onto the plane x0 + ... + xD = 0. The simplex around it has D + 1 corners, one of every class
// k: its coordinates are all congruent to k modulo D + 1. A vertex is therefore packed into a key of 64 bits, or 128
// for the narrowest kernels: k in the lowest three bits, and above it, in fields of their own, the quotients of D
// coordinates (the last one follows, as the sum is 0) or differences of quotients, see Layout.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "arrays.h"
#include "table.h"
#include "vectors.h"

namespace crf {

// Thrown when floats cannot tell the coordinates of an image apart.
struct TooNarrow : std::range_error {
    using std::range_error::range_error;
};

// The order in which pixels are visited: strip after strip, each from top to bottom. The vertices under a strip fit
// into a core's cache, those under whole rows do not.
struct Raster {
    static constexpr size_t STRIP = 64;

    // A strip's part of a row of the image: pixels from (x, y) to the right.
    struct Row {
        size_t number;  // of the first pixel in the order of visits
        size_t x;
        size_t y;
        int count;
        ptrdiff_t above;  // the number of the pixel above the first, negative if there is none
    };

    size_t height;
    size_t width;

    size_t pixels() const { return height * width; }

    template <class Visit>
    void for_each_row(Visit visit) const {
        size_t number = 0;
        for (size_t left = 0; left < width; left += STRIP) {
            const int count = width - left < STRIP ? int(width - left) : int(STRIP);
            for (size_t y = 0; y < height; ++y) {
                visit(Row{number, left, y, count, y ? ptrdiff_t(number - count) : -1});
                number += count;
            }
        }
    }
};

// Walks over the pixels in the raster's order and says where each lies in the image.
class Cursor {
public:
    explicit Cursor(const Raster& raster) : raster_(raster) { enter_strip(); }

    // The index of this pixel in the image; moves on to the next one.
    size_t next() {
        const size_t here = pixel_;
        ++pixel_;
        if (pixel_ == row_end_) enter_row();
        return here;
    }

private:
    void enter_row() {
        ++y_;
        if (y_ == raster_.height) {
            left_ += Raster::STRIP;
            enter_strip();
            return;
        }
        pixel_ += raster_.width - (row_end_ - row_begin_);
        row_begin_ += raster_.width;
        row_end_ += raster_.width;
    }

    void enter_strip() {
        const size_t right = left_ + Raster::STRIP;
        y_ = 0;
        pixel_ = left_;
        row_begin_ = left_;
        row_end_ = right < raster_.width ? right : raster_.width;
    }

    const Raster& raster_;
    size_t left_ = 0;
    size_t y_;
    size_t pixel_;
    size_t row_begin_;
    size_t row_end_;
};

// Vertices that follow each other along one direction, chain after chain, as offsets of their rows (see `address`). The
// last one of a chain has the bit LAST set. A vertex without neighbours is in no chain.
typedef Array<uint32_t> Chains;
constexpr uint32_t LAST = 1;

// What a neighbour counts for in the blur, by the bit LAST: half, or nothing past the end of a chain.
constexpr float HALF[2] = {0.5f, 0.f};

// Where a vertex's row of so many channels begins. `offset` is where it would begin in bytes if rows were one float
// long: the machine multiplies that by a small number of channels on the way. For a row that is only prefetched,
// `offset` may have the bit LAST set.
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
    Array<uint32_t> corners;  // [pixels, CORNERS]: offsets of the corners of the simplex around a pixel, see `address`
    Array<float> weights;     // [pixels, CORNERS]: barycentric coordinates times the pixel's normalisation
    Chains chains[CORNERS];   // of every direction

    // What slicing has to be scaled by: the inverse of the blur's gain (Adams et al.).
    static constexpr float alpha() { return 1.f / (1.f + 1.f / (1 << D)); }
};

// Adds to every value half of its two neighbours', in place. Chains are short: a branch at their ends would cost more
// than the multiplication by HALF.
inline void blur_numbers(const Chains& chains, float* values) {
    const size_t count = chains.size();
    if (!count) return;
    const uint32_t* const entries = chains.data();
    auto value_of = [&](size_t i) { return address(values, entries[i] & ~LAST); };
    float* value = value_of(0);
    float here = *value;
    float half_before = 0;
    for (size_t i = 0; i < count; ++i) {
        float* const next = value_of(i + 1 < count ? i + 1 : i);
        const float after = *next;
        const float half = HALF[entries[i] & LAST];
        const float half_here = half * here;
        *value = fma(half, after, here + half_before);
        half_before = half_here;
        here = after;
        value = next;
    }
}

// The scales of the features, and how the coordinates of a vertex share the bits of its key.
//
// The highest fields hold differences of quotients that follow the position alone (the first two features): vertices
// with similar keys are then near in the image, and so in memory. The other fields hold the quotients.
template <int D>
struct Layout {
    static constexpr int PLACES = D > 2 ? 2 : 1;  // how many fields hold differences

    float scale[D];
    int32_t least[D];  // of each field
    int shift[D];      // the lowest bit of each field
    int bits = 3;      // of the whole key

    // `low` and `high` bound the features over the whole image. Every field has room for the corners of all simplices
    // and for their neighbours. Throws TooNarrow.
    Layout(const float* low, const float* high) {
        const float deviation = std::sqrt(2.0 / 3.0) * (D + 1);
        for (int i = 0; i < D; ++i) scale[i] = 1.0 / std::sqrt(double((i + 1) * (i + 2))) * deviation;
        for (int j = D - 1; j >= 0; --j) {
            const Range coordinate = range_of_coordinate(j, low, high);
            const Range field = j < PLACES ? range_of_difference(j, low, high) : coordinate;
            if (!(coordinate.high / (D + 1) < 2e6 && coordinate.low / (D + 1) > -2e6)) throw TooNarrow("coordinates");
            least[j] = int32_t(std::floor(field.low / (D + 1))) - 6;
            const int32_t reach = int32_t(std::ceil(field.high / (D + 1))) + 6 - least[j];
            shift[j] = bits;
            while ((int64_t(1) << (bits - shift[j])) <= reach) ++bits;
        }
    }

    // What coordinate i adds to field j.
    static constexpr int part(int i, int j) { return i == j ? 1 : i == j + 1 && j < PLACES ? -1 : 0; }

private:
    struct Range {
        double low = 0;
        double high = 0;

        void add(double a, double b) {
            low += a < b ? a : b;
            high += a < b ? b : a;
        }
    };

    // Adds `factor` times feature i.
    void add(Range& range, int i, double factor, const float* low, const float* high) const {
        range.add(factor * low[i] * scale[i], factor * high[i] * scale[i]);
    }

    Range range_of_coordinate(int j, const float* low, const float* high) const {
        Range range;
        for (int i = j; i < D; ++i) add(range, i, 1, low, high);
        if (j > 0) add(range, j - 1, -j, low, high);
        return range;
    }

    // Of coordinate j less the next one.
    Range range_of_difference(int j, const float* low, const float* high) const {
        Range range;
        if (j > 0) add(range, j - 1, -j, low, high);
        add(range, j, j + 2, low, high);
        return range;
    }
};

// Builds a lattice row by row. A simplex is known by its `id`: the key of its corner of class 0 and the order of the
// coordinates, three bits each. The first three take the place of the class, the others lie above the key.
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
            all_units_ += unit_[i];
        }
    }

    // Adds the pixels of a row. `features(row, float[D][STRIP])` writes their features.
    template <class Features>
    void add(const Raster::Row& row, Features features) {
        pixels_ = row.number + row.count;
        std::swap(ids_, ids_above_);
        features(row, features_);
        for (int start = 0; start < row.count; start += WIDTH) {
            F point[D];
            for (int i = 0; i < D; ++i) point[i] = load<F>(features_[i] + start);
            const int count = row.count - start < WIDTH ? row.count - start : WIDTH;
            place(point, start, &lattice_.weights[(row.number + start) * CORNERS], count);
        }
        if (row.above < 0) std::memset(static_cast<void*>(ids_above_), -1, sizeof(Ids));  // which no simplex has
        int32_t source[Raster::STRIP];
        take_from_neighbours(row, source);
        take_from_recent(source);
        uint32_t* const corners = lattice_.corners.data();
        resolve(corners + row.number * CORNERS);
        typedef std::array<uint32_t, CORNERS> Corners;
        for (int i = 0; i < row.count; ++i)
            store(corners + (row.number + i) * CORNERS, load<Corners>(corners + size_t(source[i]) * CORNERS));
    }

    // Adds the vertices around one point that is not a pixel.
    void add_vertices(const F* features) {
        float weights[CORNERS];
        uint32_t corners[CORNERS];
        place(features, 0, weights, 1);
        unresolved_[0] = 0;
        unresolved_count_ = 1;
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
    static constexpr int CORNERS = D + 1;
    static constexpr int DIRECTIONS = 3;  // that are connected at a time
    static constexpr int AHEAD = 24;      // how many lines of the table are prefetched
    static constexpr int RECENT = 1 << 13;

    typedef Key Ids[Raster::STRIP];

    // The last simplex with some hash, and a pixel inside it.
    struct Recent {
        Key id;
        int32_t pixel;
    };

    // Neighbours along a direction.
    struct Links {
        Array<int32_t> after;     // [vertices]: the next vertex, negative if there is none
        Array<uint8_t> preceded;  // [vertices]: whether there is a vertex before
    };

    // Finds the simplices around WIDTH points, and the weights of the first `count` of them. The order of the
    // operations is pydensecrf's, so that points on the boundary between simplices fall to the same side.
    void place(const F* features, int start, float* weights, int count) {
        F elevated[CORNERS];
        I quotient[CORNERS];
        I rank[CORNERS];
        elevate(features, elevated);
        find_simplex(elevated, quotient, rank);
        write_weights(elevated, quotient, rank, weights, count);
        write_ids(quotient, rank, start);
    }

    // Lifts points onto the plane.
    void elevate(const F* features, F* elevated) const {
        F partial = {};
        for (int j = D; j > 0; --j) {
            const F scaled = features[j - 1] * layout_.scale[j - 1];
            elevated[j] = partial - float(j) * scaled;
            partial += scaled;
        }
        elevated[0] = partial;
    }

    // The corner of class 0, whose coordinates are the quotients times CORNERS, and the rank of what remains of each
    // coordinate: 0 for the largest.
    static void find_simplex(const F* elevated, I* quotient, I* rank) {
        F nearest_quotient[CORNERS];
        F remainder[CORNERS];
        F sum = {};
        for (int i = 0; i < CORNERS; ++i) {
            nearest_quotient[i] = nearest((F{} + 1.f / CORNERS) * elevated[i]);
            remainder[i] = elevated[i] - nearest_quotient[i] * float(CORNERS);
            sum += nearest_quotient[i];
        }
        for (int i = 0; i < CORNERS; ++i) rank[i] = I{};
        for (int i = 0; i < D; ++i) {
            for (int j = i + 1; j < CORNERS; ++j) {
                const I is_smaller = I(remainder[i] < remainder[j]);  // -1 or 0
                rank[i] -= is_smaller;
                rank[j] += is_smaller + 1;
            }
        }
        // Rounding each coordinate may have left the plane: the coordinates that were rounded the most move back.
        const I excess = __builtin_convertvector(sum, I);
        for (int i = 0; i < CORNERS; ++i) {
            rank[i] += excess;
            const I step = I(rank[i] >= CORNERS) - I(rank[i] < 0);
            rank[i] += step * CORNERS;
            quotient[i] = __builtin_convertvector(nearest_quotient[i], I) + step;
        }
    }

    // Barycentric coordinates: differences of what remains of the coordinates, in the order of their ranks.
    static void write_weights(const F* elevated, const I* quotient, const I* rank, float* weights, int count) {
        F remainder[CORNERS];
        for (int i = 0; i < CORNERS; ++i) {
            const F corner = __builtin_convertvector(quotient[i] * CORNERS, F);
            remainder[i] = (elevated[i] - corner) * (F{} + 1.f / CORNERS);
        }
        F sorted[CORNERS];
        for (int r = 0; r < CORNERS; ++r) {
            I bits = {};
            for (int i = 0; i < CORNERS; ++i) bits |= I(rank[i] == r) & bits_of<I>(remainder[i]);
            sorted[r] = bits_of<F>(bits);
        }
        float weight[CORNERS][WIDTH];
        store(weight[0], sorted[D] + (1.f - sorted[0]));
        for (int k = 1; k < CORNERS; ++k) store(weight[k], sorted[D - k] - sorted[D - k + 1]);
        for (int lane = 0; lane < count; ++lane) {
            for (int k = 0; k < CORNERS; ++k) weights[lane * CORNERS + k] = weight[k][lane];
        }
    }

    void write_ids(const I* quotient, const I* rank, int start) {
        I order = {};
        for (int i = 0; i < D; ++i) order |= rank[i] << (3 * i);
        I field[D];
        for (int i = 0; i < D; ++i)
            field[i] = quotient[i] - ((i < Layout<D>::PLACES ? quotient[i + 1] : I{}) + layout_.least[i]);
        if constexpr (sizeof(Key) == 8) {
            L id = {};
            for (int i = 0; i < D; ++i) id += __builtin_convertvector(field[i], L) << layout_.shift[i];
            id += __builtin_convertvector(order & 7, L);
            id += __builtin_convertvector(order >> 3, L) << layout_.bits;
            std::memcpy(static_cast<void*>(ids_ + start), &id, sizeof(id));
        } else {
            for (int lane = 0; lane < WIDTH; ++lane) {
                Key id = Key(order[lane] & 7) | Key(order[lane] >> 3) << layout_.bits;
                for (int i = 0; i < D; ++i) id += Key(field[i][lane]) << layout_.shift[i];
                ids_[start + lane] = id;
            }
        }
    }

    // Finds the pixels in the simplex of the pixel to the left or above, which they take their corners from (`source`).
    // The others are unresolved, and their own source.
    void take_from_neighbours(const Raster::Row& row, int32_t* source) {
        for (int i = 0; i < row.count; ++i) {
            const int32_t own = int32_t(row.number) + i;
            const bool as_above = ids_[i] == ids_above_[i];
            const bool as_left = i > 0 && ids_[i] == ids_[i - 1];
            source[i] = as_left ? own - 1 : as_above ? int32_t(row.above) + i : own;
            unresolved_[unresolved_count_] = i;
            unresolved_count_ += !(as_left | as_above);
        }
    }

    // Finds those of the unresolved pixels whose simplex was met lately, most of them not far away.
    void take_from_recent(int32_t* source) {
        int left = 0;
        for (int k = 0; k < unresolved_count_; ++k) {
            const int i = unresolved_[k];
            Recent& recent = recent_[Table::hash(ids_[i]) / (UINT64_MAX / RECENT + 1)];
            const bool known = recent.id == ids_[i];
            source[i] = known ? recent.pixel : source[i];
            recent = {ids_[i], source[i]};
            unresolved_[left] = i;
            left += !known;
        }
        unresolved_count_ = left;
    }

    // Finds the corners of the unresolved pixels' simplices, or enters them as new vertices. `corners` are the row's.
    void resolve(uint32_t* corners) {
        const int count = unresolved_count_ * CORNERS;
        write_corner_keys();
        const int32_t known = int32_t(vertex_keys_.size());
        const size_t all = expected(known + count);
        Key* const added_keys = vertex_keys_.room(count, all);
        const Key* const vertex_keys = vertex_keys_.data();
        vertices_.reserve(known + count, all, [&](int32_t vertex) { return Table::hash(vertex_keys[vertex]); });
        for (int i = 0; i < AHEAD && i < count; ++i) vertices_.prefetch(hashes_[i]);
        int added = 0;
        int i = 0;
        for (int pixel = 0; pixel < unresolved_count_; ++pixel) {
            uint32_t* const own = corners + unresolved_[pixel] * CORNERS;
            for (int k = 0; k < CORNERS; ++k) {
                vertices_.prefetch(hashes_[i + AHEAD < count ? i + AHEAD : i]);
                const Key key = keys_[i];
                auto same = [&](int32_t vertex) { return vertex_keys[vertex] == key; };
                const int32_t vertex = vertices_.enter(hashes_[i], known + added, same);
                own[k] = uint32_t(vertex) * sizeof(float);
                added_keys[added] = key;
                added += vertex == known + added;
                ++i;
            }
        }
        vertex_keys_.extend(added);
        unresolved_count_ = 0;
    }

    // The keys of the corners of the unresolved pixels' simplices, and their hashes. From a corner to that of the next
    // class one coordinate, by its rank, steps back by a unit.
    void write_corner_keys() {
        for (int pixel = 0; pixel < unresolved_count_; ++pixel) {
            const Key id = ids_[unresolved_[pixel]];
            const uint32_t order = uint32_t(id & 7) | uint32_t(id >> layout_.bits) << 3;
            Key unit_by_rank[8] = {};
            for (int i = 0; i < D; ++i) unit_by_rank[order >> (3 * i) & 7] = unit_[i];
            Key* const keys = keys_ + pixel * CORNERS;
            keys[0] = id & ((Key(1) << layout_.bits) - 8);
            for (int k = 1; k < CORNERS; ++k) keys[k] = keys[k - 1] - unit_by_rank[CORNERS - k] + 1;
            for (int k = 0; k < CORNERS; ++k) hashes_[pixel * CORNERS + k] = Table::hash(keys[k]);
        }
    }

    // How many vertices there will be if `count` are known by now, were the image the same everywhere. The first rows
    // say little about the others.
    size_t expected(size_t count) const {
        return size_t(double(count) * std::min(1.05 * double(lattice_.pixels) / double(pixels_), 4.));
    }

    // Links every vertex to the next one along each direction, which has one less in every coordinate, and D more in
    // that of the direction. So its class is one less, or D after 0, and its key that of the vertex plus a constant.
    void connect() {
        const size_t count = lattice_.vertices;
        Array<int32_t> numbers(count + 1);
        vertex_keys_.extend(1);
        sort(numbers);
        vertex_keys_[count] = ~Key(0);  // a last vertex that is nobody's neighbour
        numbers[count] = int32_t(count);
        const Key class_unit = Key(1) << layout_.bits;
        const Key* const keys = vertex_keys_.data();
        const size_t first_class_end = std::lower_bound(keys, keys + count, class_unit) - keys;
        const size_t last_class_begin = std::lower_bound(keys, keys + count, D * class_unit) - keys;
        Links links[DIRECTIONS];
        for (Links& link : links) link.after = Array<int32_t>(count + 1);
        for (int j = 0; j < CORNERS; j += DIRECTIONS) {
            Key step[DIRECTIONS];
            Key step_from_first_class[DIRECTIONS];
            for (int g = 0; g < DIRECTIONS; ++g) {
                step[g] = unit_[j + g] - class_unit;
                step_from_first_class[g] = unit_[j + g] - all_units_ + D * class_unit;
                links[g].preceded = Array<uint8_t>(count + 1, 0);
            }
            merge(numbers, first_class_end, count, 0, step, links);
            merge(numbers, 0, first_class_end, last_class_begin, step_from_first_class, links);
            chain(links, lattice_.chains + j);
        }
    }

    // Sorts the vertices by class, then by key: the class moves from the lowest bits to above the highest. `numbers`
    // receives the vertices in that order.
    void sort(Array<int32_t>& numbers) {
        const size_t count = lattice_.vertices;
        const int bits = layout_.bits;
        const int passes = (bits + 10) / 11;
        const int digit = (bits + passes - 1) / passes;
        for (size_t i = 0; i < count; ++i) {
            vertex_keys_[i] += (vertex_keys_[i] & 7) * ((Key(1) << bits) - 1);
            numbers[i] = int32_t(i);
        }
        Array<Key> other_keys(count + 1);
        Array<int32_t> other_numbers(count + 1);
        for (int shift = 3; shift < bits + 3; shift += digit) {
            const uint32_t mask = (1u << digit) - 1;
            uint32_t starts[1 << 11] = {};
            for (size_t i = 0; i < count; ++i) ++starts[uint32_t(vertex_keys_[i] >> shift) & mask];
            uint32_t start = 0;
            for (uint32_t& bucket : starts) {
                const uint32_t size = bucket;
                bucket = start;
                start += size;
            }
            for (size_t i = 0; i < count; ++i) {
                const uint32_t bucket = uint32_t(vertex_keys_[i] >> shift) & mask;
                const uint32_t to = starts[bucket]++;
                other_keys[to] = vertex_keys_[i];
                other_numbers[to] = numbers[i];
            }
            std::swap(vertex_keys_, other_keys);
            std::swap(numbers, other_numbers);
        }
    }

    // Links sorted vertices to their successors along one direction, whose keys are theirs plus `step`. As the keys are
    // sorted, this is a merge of the list with itself.
    struct Merge {
        size_t vertex;
        size_t candidate;
        Key step;
        int32_t* after;
        uint8_t* preceded;

        // Has no branch.
        void advance(const Key* keys, const int32_t* numbers) {
            const Key wanted = keys[vertex] + step;
            const Key key = keys[candidate];
            const int32_t successor = numbers[candidate];
            after[numbers[vertex]] = wanted == key ? successor : -1;
            preceded[successor] = wanted == key;
            vertex += wanted <= key;
            candidate += key <= wanted;
        }
    };

    // Links the sorted vertices from `begin` to `end` to those from `candidates` on. The directions take turns, so that
    // none waits for the loads of its own last step.
    void merge(const Array<int32_t>& numbers, size_t begin, size_t end, size_t candidates, const Key* steps,
               Links* links) {
        const Key* const keys = vertex_keys_.data();
        const int32_t* const n = numbers.data();
        Merge a{begin, candidates, steps[0], links[0].after.data(), links[0].preceded.data()};
        Merge b{begin, candidates, steps[1], links[1].after.data(), links[1].preceded.data()};
        Merge c{begin, candidates, steps[2], links[2].after.data(), links[2].preceded.data()};
        while ((a.vertex < end) & (b.vertex < end) & (c.vertex < end)) {
            a.advance(keys, n);
            b.advance(keys, n);
            c.advance(keys, n);
        }
        while (a.vertex < end) a.advance(keys, n);
        while (b.vertex < end) b.advance(keys, n);
        while (c.vertex < end) c.advance(keys, n);
    }

    // Writes the chains in the order of their first vertices, the heads. Until they are needed, the heads are kept at
    // the end of the array that the chains are written to: a chain has at least two entries, so the writing never
    // catches up with the reading.
    void chain(Links* links, Chains* chains) {
        const int32_t count = lattice_.vertices;
        const int32_t* after[DIRECTIONS];
        const uint32_t* next_head[DIRECTIONS];
        uint32_t vertex[DIRECTIONS];
        uint32_t* entry[DIRECTIONS];
        size_t shortest = SIZE_MAX;
        for (int g = 0; g < DIRECTIONS; ++g) {
            after[g] = links[g].after.data();
            const uint8_t* const preceded = links[g].preceded.data();
            int32_t head_count = 0;
            int32_t entry_count = 0;
            for (int32_t i = 0; i < count; ++i) {
                head_count += (after[g][i] >= 0) & !preceded[i];
                entry_count += after[g][i] >= 0;
            }
            entry_count += head_count;  // the last vertex of every chain has no successor
            chains[g].room(entry_count + 1);
            entry[g] = chains[g].extend(entry_count);
            uint32_t* const heads = entry[g] + entry_count - head_count;
            head_count = 0;
            for (int32_t i = 0; i < count; ++i) {
                heads[head_count] = i;
                head_count += (after[g][i] >= 0) & !preceded[i];
            }
            heads[head_count] = 0;
            vertex[g] = heads[0];
            next_head[g] = heads + 1;
            shortest = chains[g].size() < shortest ? chains[g].size() : shortest;
        }
        auto advance = [&](int g) {
            const int32_t next = after[g][vertex[g]];
            const bool last = next < 0;
            *entry[g] = vertex[g] * sizeof(float) + last * LAST;
            ++entry[g];
            vertex[g] = last ? *next_head[g] : next;
            next_head[g] += last;
        };
        for (size_t k = 0; k < shortest; ++k) {
            for (int g = 0; g < DIRECTIONS; ++g) advance(g);
        }
        for (int g = 0; g < DIRECTIONS; ++g) {
            for (size_t k = shortest; k < chains[g].size(); ++k) advance(g);
        }
    }

    // Symmetric normalisation (Krähenbühl, Koltun 2011): weights are divided by sqrt(K 1), with K not yet normalised.
    void normalise() {
        Array<float> values(lattice_.vertices, 0);
        const size_t taps = lattice_.pixels * CORNERS;
        for (size_t i = 0; i < taps; ++i) *address(values.data(), lattice_.corners[i]) += lattice_.weights[i];
        for (const Chains& chains : lattice_.chains) blur_numbers(chains, values.data());
        for (size_t i = 0; i < taps; i += CORNERS) {
            const uint32_t* const corner = &lattice_.corners[i];
            float* const weight = &lattice_.weights[i];
            float total = 0;
            for (int k = 0; k < CORNERS; ++k) total += weight[k] * *address(values.data(), corner[k]);
            const float norm = 1.f / std::sqrt(total * Lattice<D>::alpha() + 1e-20f);
            for (int k = 0; k < CORNERS; ++k) weight[k] *= norm;
        }
    }

    const Layout<D>& layout_;
    Lattice<D> lattice_;
    Table vertices_;          // by the hash of their keys
    Array<Key> vertex_keys_;  // [vertices]
    Array<Recent> recent_;    // [RECENT], by the hash of their ids
    size_t pixels_ = 0;       // that were added
    Key unit_[CORNERS] = {};  // what the key changes by when a quotient grows by one
    Key all_units_ = 0;

    // Of the row that is being added:
    float features_[D][Raster::STRIP] = {};
    Ids id_rows_[2];
    Key* ids_ = id_rows_[0];
    Key* ids_above_ = id_rows_[1];
    int unresolved_[Raster::STRIP];  // pixels whose corners are not known yet
    int unresolved_count_ = 0;
    uint64_t hashes_[Raster::STRIP * CORNERS];  // of the corners of the unresolved pixels' simplices
    Key keys_[Raster::STRIP * CORNERS];
};

template <int D, class Key, class Features>
Lattice<D> build_with(const Raster& raster, const Layout<D>& layout, Features features) {
    LatticeBuilder<D, Key> builder(raster.pixels(), layout);
    raster.for_each_row([&](const Raster::Row& row) { builder.add(row, features); });
    // pydensecrf fills its last group of four with points at the origin, and their vertices take part in the blur.
    const typename Lanes<WIDTH>::Float origin[D] = {};
    if (raster.pixels() % 4) builder.add_vertices(origin);
    return builder.finish();
}

// The lattice of an image. `features(row, float[D][STRIP])` writes the features of the pixels of a row; `low` and
// `high` bound them.
template <int D, class Features>
Lattice<D> build(const Raster& raster, const float* low, const float* high, Features features) {
    const Layout<D> layout(low, high);
    if (layout.bits + 3 * (D - 1) <= 64) return build_with<D, uint64_t>(raster, layout, features);
    return build_with<D, unsigned __int128>(raster, layout, features);
}

}  // namespace crf
