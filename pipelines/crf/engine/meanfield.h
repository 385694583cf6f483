// Mean-field inference over two lattices: slice, p * exp(message) / sum, splat, in one pass over the pixels.
//
// Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011).
// Softmax does not change when all messages of a pixel do by the same amount, and filters are linear. So what is
// filtered are L - 1 differences Q_l - Q_last instead of L marginals, and what is kept of the unary are the ratios
// p_l / p_last. Q itself exists only in registers.
#pragma once

#include "lattice.h"

enum class Stage { first, middle, last };

// Values of the vertices of a lattice, and those of the next iteration.
template <int D>
struct Values {
    Values(const Lattice<D>& lattice, int channels, float weight)
        : lattice(lattice),
          scale(weight * Lattice<D>::alpha()),
          now(size_t(lattice.vertices) * channels),
          next(size_t(lattice.vertices) * channels, 0) {}

    const Lattice<D>& lattice;
    const float scale;  // of the messages that are sliced
    Array<float> now, next;

    // What was splatted becomes what is sliced.
    void turn() {
        std::swap(now, next);
        std::memset(next.data(), 0, next.size() * sizeof(float));
    }
};

// What a pass over the pixels needs of them.
template <int D>
struct Taps {
    explicit Taps(Values<D>& values)
        : corners(values.lattice.corners.data()),
          weights(values.lattice.weights.data()),
          now(values.now.data()),
          next(values.next.data()),
          scale(values.scale) {}

    const uint32_t* const corners;
    const float* const weights;
    const float* const now;
    float* const next;
    const float scale;

    const uint32_t* corner(size_t pixel) const { return corners + pixel * (D + 1); }
    const float* weight(size_t pixel) const { return weights + pixel * (D + 1); }
};

// Every row of a chain plus half of its two neighbours, in place.
template <class V, int B>
void blur_rows(const Chains& chains, float* values, size_t stride, size_t offset) {
    constexpr size_t AHEAD = 64;
    const size_t count = chains.size();
    if (!count) return;
    const uint32_t* const entries = chains.data();
    values += offset;
    auto row_of = [&](uint32_t entry) { return address(values, entry & ~LAST, stride); };
    float* row = row_of(entries[0]);
    V here[B], half_before[B] = {};
    for (int b = 0; b < B; ++b) here[b] = load<V>(row + b * lanes<V>);
    for (size_t i = 0; i < count; ++i) {
        const float half = HALF[entries[i] & LAST];
        float* const next = row_of(entries[i + 1 < count ? i + 1 : i]);
        const float* far = address(values, entries[i + AHEAD < count ? i + AHEAD : i], stride);
        for (size_t at = 0; at < B * lanes<V>; at += 16) __builtin_prefetch(far + at, 1);
        for (int b = 0; b < B; ++b) {
            const V after = load<V>(next + b * lanes<V>), half_here = broadcast<V>(half) * here[b];
            store(row + b * lanes<V>, fma(broadcast<V>(half), after, here[b] + half_before[b]));
            half_before[b] = half_here, here[b] = after;
        }
        row = next;
    }
}

template <class V, int B, int D>
void blur(Values<D>& values, size_t stride) {
    for (const Chains& chains : values.lattice.chains) {
        if constexpr (lanes<V> == 1)
            blur_numbers(chains, values.next.data());
        else if constexpr (B > 0)
            blur_rows<V, B>(chains, values.next.data(), B * lanes<V>, 0);
        else
            for (size_t offset = 0; offset < stride; offset += lanes<V>)
                blur_rows<V, 1>(chains, values.next.data(), stride, offset);
    }
    values.turn();
}

// Channels in memory for so many differences: whole vectors of the widest kind that is at least half full.
inline int padded(int differences) {
    if (differences <= 1) return 1;
    int unit = 4;
    while (unit < WIDTH && differences > unit) unit *= 2;
    return (differences + unit - 1) / unit * unit;
}

// Which labels have a channel of their own. `order` holds the labels of the channels, the last one's difference being
// 0 by definition. Labels that are improbable in the whole picture share the channel `shared` (or it is -1): they
// attract hardly anybody, so their marginals stay in the ratio of their probabilities. Each attracts itself alone, not
// the others of the channel, so the channel's pull on itself is the share of one: sum of squares by square of the sum.
struct Channels {
    int labels;
    float least;  // probabilities below are raised to this
    Array<int> order;
    Array<float> share;      // [labels]: 1 for improbable labels, else 0
    Array<float> pull;       // [padded channels]: 1, of the shared channel less
    Array<int32_t> present;  // [padded channels]: all bits, none where it pads a row
    int shared = -1;

    int differences() const { return int(order.size()) - 1; }

    float raised(float p) const { return p > least ? p : least; }

    // The sum of the improbable labels' probabilities.
    float rest(const float* p) const {
        typedef Lanes<4>::Float V;
        V four = {};
        int l = 0;
        for (; l + 4 <= labels; l += 4)
            four = fma(larger(load<V>(p + l), broadcast<V>(least)), load<V>(&share[l]), four);
        float total = sum(four);
        for (; l < labels; ++l) total += raised(p[l]) * share[l];
        return total;
    }

    // p_l / p_last of one pixel.
    void ratios(const float* p, float* row) const {
        typedef Lanes<4>::Float V;
        const int count = differences();
        const float inverse = 1.f / raised(p[order[count]]);
        int c = 0;
        if (shared < 0)
            for (; c + 4 <= count; c += 4) store(row + c, larger(load<V>(p + c), broadcast<V>(least)) * inverse);
        for (; c < count; ++c) row[c] = raised(p[order[c]]) * inverse;
        if (shared >= 0) row[shared] = rest(p) * inverse;
    }

    // Marginals of one pixel from what is proportional to them and the inverse of its sum; `ratio`: from `ratios`.
    void write(const float* p, const float* ratio, const float* row, float last, float inverse,
               float* marginals) const {
        typedef Lanes<4>::Float V;
        const int count = differences();
        int l = 0, c = 0;
        if (shared >= 0) {
            const float part = row[shared] * inverse / (ratio[shared] * raised(p[order[count]]));
            for (; l + 4 <= labels; l += 4) store(marginals + l, larger(load<V>(p + l), broadcast<V>(least)) * part);
            for (; l < labels; ++l) marginals[l] = raised(p[l]) * part;
            c = shared + 1;
        } else {
            for (; c + 4 <= count; c += 4) store(marginals + c, load<V>(row + c) * inverse);
        }
        for (; c < count; ++c) marginals[order[c]] = row[c] * inverse;
        marginals[order[count]] = last * inverse;
    }
};

// All that one inference works on.
struct Field {
    const Channels& channels;
    const float* probabilities;  // [pixels, labels]
    float* marginals;            // [pixels, labels]
    Raster raster;
    Array<float> ratios;  // [pixels, channels] and a vector more, in the raster's order
    Values<2> gaussian;
    Values<5> bilateral;

    void fill_ratios() {
        const size_t labels = channels.labels, differences = channels.differences();
        raster.rows([&](size_t number, size_t x, size_t y, int count, ptrdiff_t) {
            const float* p = probabilities + (y * raster.width + x) * labels;
            for (int i = 0; i < count; ++i, p += labels) channels.ratios(p, &ratios[(number + i) * differences]);
        });
    }
};

template <class V, int G, int D>
inline void slice(V* messages, const Taps<D>& taps, size_t pixel, size_t stride, size_t offset) {
    const uint32_t* corner = taps.corner(pixel);
    const float* weight = taps.weight(pixel);
    V total[G] = {};
    for (int k = 0; k <= D; ++k) {
        const float* row = address(taps.now + offset, corner[k], stride);
        for (int i = 0; i < G; ++i)
            total[i] = fma(broadcast<V>(weight[k]), load<V>(row + i * lanes<V>), total[i]);
    }
    for (int i = 0; i < G; ++i) messages[i] = fma(total[i], broadcast<V>(taps.scale), messages[i]);
}

template <class V, int G, int D>
inline void splat(const V* q, const Taps<D>& taps, size_t pixel, size_t stride, size_t offset) {
    const uint32_t* corner = taps.corner(pixel);
    const float* weight = taps.weight(pixel);
    for (int k = 0; k <= D; ++k) {
        float* row = address(taps.next + offset, corner[k], stride);
        for (int i = 0; i < G; ++i)
            store(row + i * lanes<V>, fma(broadcast<V>(weight[k]), q[i], load<V>(row + i * lanes<V>)));
    }
}

// e^x of every element, in vectors of the widest kind; `count` is a multiple of it.
template <bool clipped>
inline void exp_all(float* values, size_t count) {
    typedef Lanes<WIDTH>::Float V;
    for (size_t i = 0; i < count; i += WIDTH) {
        const V x = load<V>(values + i);
        store(values + i, clipped ? clipped_exp(x) : exp(x));
    }
}

// Where the pixels lie in the picture, one after the other in the raster's order.
class Cursor {
public:
    explicit Cursor(const Raster& raster) : raster_(raster) { enter_strip(); }

    size_t next() {
        const size_t here = at_++;
        if (at_ == end_) {
            if (++y_ == raster_.height) {
                left_ += Raster::STRIP;
                enter_strip();
            } else {
                at_ += raster_.width - (end_ - begin_), begin_ += raster_.width, end_ += raster_.width;
            }
        }
        return here;
    }

private:
    void enter_strip() {
        const size_t right = left_ + Raster::STRIP;
        y_ = 0, at_ = begin_ = left_, end_ = right < raster_.width ? right : raster_.width;
    }

    const Raster& raster_;
    size_t left_ = 0, y_, at_, begin_, end_;
};

// One iteration over all pixels. V is the vector, B how many of them hold a pixel's channels, 0 for any number.
// `guarded` subtracts the largest message, for weights whose messages could leave the range of exp.
//
// From a message to what is splatted is one long chain of dependent operations, longer than a processor looks ahead.
// Every step is therefore taken for a group of pixels before the next one.
template <class V, int B, Stage stage, bool guarded>
void iterate(Field& field) {
    constexpr int FIXED = B ? B : 1, GROUP = 8;
    const int blocks = B ? B : padded(field.channels.differences()) / lanes<V>;
    const size_t stride = size_t(blocks) * lanes<V>, labels = field.channels.labels, pixels = field.raster.pixels();
    const size_t differences = field.channels.differences();
    typedef typename Lanes<lanes<V>>::Int I;
    const Taps<2> gaussian(field.gaussian);
    const Taps<5> bilateral(field.bilateral);
    const float* ratio = field.ratios.data();
    V fixed[GROUP * FIXED] = {};
    Array<V> room(B ? 0 : GROUP * blocks, 0);
    V* const values = B ? fixed : room.data();
    float last[GROUP], inverses[GROUP];
    std::fill(last, last + GROUP, 1.f);
    Cursor cursor(field.raster);
    for (size_t start = 0; start < pixels; start += GROUP, ratio += GROUP * differences) {
        const int count = pixels - start < GROUP ? int(pixels - start) : GROUP;
        if (count < GROUP) std::fill(values, values + GROUP * blocks, V{});  // e^x is taken of the whole group
        for (int i = 0; i < count && stage != Stage::first; ++i) {
            V* e = values + i * blocks;
            for (int b = 0; b < blocks; b += FIXED) {
                V messages[FIXED] = {};
                slice<V, FIXED>(messages, gaussian, start + i, stride, size_t(b) * lanes<V>);
                slice<V, FIXED>(messages, bilateral, start + i, stride, size_t(b) * lanes<V>);
                for (int k = 0; k < FIXED; ++k) e[b + k] = messages[k];
            }
            if (guarded) {
                V most = {};
                for (int b = 0; b < blocks; ++b) most = larger(most, e[b]);
                const float peak = maximum(most);
                for (int b = 0; b < blocks; ++b) e[b] -= peak;
                last[i] = clipped_exp(broadcast<Lanes<4>::Float>(-peak))[0];
            }
        }
        if (stage != Stage::first) exp_all<guarded>(reinterpret_cast<float*>(values), GROUP * stride);
        for (int i = 0; i < count; ++i)
            for (int b = 0; b < blocks; ++b) {
                const I present = load<I>(&field.channels.present[b * lanes<V>]);
                const V p = bits_of<V>(load<I>(ratio + i * differences + b * lanes<V>) & present);
                V& e = values[i * blocks + b];
                e = stage == Stage::first ? p : p * e;
            }
        for (int i = 0; i < GROUP; i += 4) {
            V rows[4] = {};
            for (int k = 0; k < 4; ++k)
                for (int b = 0; b < blocks; ++b) rows[k] += values[(i + k) * blocks + b];
            store(inverses + i, 1.f / (sums(rows) + load<Lanes<4>::Float>(last + i)));
        }
        for (int i = 0; i < count; ++i) {
            V* e = values + i * blocks;
            if (stage == Stage::last) {
                const size_t at = cursor.next() * labels;
                field.channels.write(field.probabilities + at, ratio + i * differences,
                                     reinterpret_cast<const float*>(e), last[i], inverses[i], field.marginals + at);
                continue;
            }
            for (int b = 0; b < blocks; ++b) {
                const V pull = load<V>(&field.channels.pull[b * lanes<V>]);
                e[b] = fma(e[b] * pull, broadcast<V>(inverses[i]), broadcast<V>(-last[i] * inverses[i]));
            }
            for (int b = 0; b < blocks; b += FIXED) {
                splat<V, FIXED>(e + b, gaussian, start + i, stride, size_t(b) * lanes<V>);
                splat<V, FIXED>(e + b, bilateral, start + i, stride, size_t(b) * lanes<V>);
            }
        }
    }
}

template <int D>
inline float slice_one(const Taps<D>& taps, size_t pixel) {
    const uint32_t* corner = taps.corner(pixel);
    const float* weight = taps.weight(pixel);
    float total = 0;
    for (int k = 0; k <= D; ++k) total = fma(weight[k], *address(taps.now, corner[k]), total);
    return total * taps.scale;
}

template <int D>
inline void splat_one(float q, const Taps<D>& taps, size_t pixel) {
    const uint32_t* corner = taps.corner(pixel);
    const float* weight = taps.weight(pixel);
    for (int k = 0; k <= D; ++k) *address(taps.next, corner[k]) = fma(weight[k], q, *address(taps.next, corner[k]));
}

// The same for two labels, whose single difference is a number: here the vector runs over pixels.
template <Stage stage, bool guarded>
void iterate_one(Field& field) {
    typedef typename Lanes<WIDTH>::Float V;
    const Taps<2> gaussian(field.gaussian);
    const Taps<5> bilateral(field.bilateral);
    const size_t pixels = field.raster.pixels(), labels = field.channels.labels;
    Cursor cursor(field.raster);
    for (size_t start = 0; start < pixels; start += WIDTH) {
        const int count = pixels - start < WIDTH ? int(pixels - start) : WIDTH;
        float message[WIDTH] = {}, ratio[WIDTH] = {}, difference[WIDTH], last[WIDTH];
        std::memcpy(ratio, &field.ratios[start], count * sizeof(float));
        if (stage != Stage::first)
            for (int i = 0; i < count; ++i)
                message[i] = slice_one(gaussian, start + i) + slice_one(bilateral, start + i);
        V m = load<V>(message), one = broadcast<V>(1.f);
        if (guarded) {
            const V peak = larger(m, V{});
            m -= peak;
            one = clipped_exp(-peak);
        }
        const V e = load<V>(ratio) * (guarded ? clipped_exp(m) : exp(m)), total = e + one;
        if (stage == Stage::last) {
            store(message, e / total), store(last, one / total);
            for (int i = 0; i < count; ++i) {
                const size_t at = cursor.next() * labels;
                if (labels == 2)  // which share no channel and keep their order
                    field.marginals[at] = message[i], field.marginals[at + 1] = last[i];
                else
                    field.channels.write(field.probabilities + at, &field.ratios[start + i], message + i, last[i], 1.f,
                                         field.marginals + at);
            }
        } else {
            store(difference, (field.channels.pull[0] * e - one) / total);
            for (int i = 0; i < count; ++i) {
                splat_one(difference[i], gaussian, start + i);
                splat_one(difference[i], bilateral, start + i);
            }
        }
    }
}

template <class V, int B, bool guarded>
void infer(Field& field, int iterations) {
    for (int i = 0; i < iterations; ++i) {
        if constexpr (B == 1 && lanes<V> == 1)
            i ? iterate_one<Stage::middle, guarded>(field) : iterate_one<Stage::first, guarded>(field);
        else
            i ? iterate<V, B, Stage::middle, guarded>(field) : iterate<V, B, Stage::first, guarded>(field);
        const size_t stride = padded(field.channels.differences());
        blur<V, B>(field.gaussian, stride);
        blur<V, B>(field.bilateral, stride);
    }
    if constexpr (lanes<V> == 1)
        iterate_one<Stage::last, guarded>(field);
    else
        iterate<V, B, Stage::last, guarded>(field);
}

inline void infer(Field& field, int iterations, float weight) {
    field.fill_ratios();
    typedef Lanes<4>::Float V4;
    typedef Lanes<WIDTH>::Float V;
    const int channels = padded(field.channels.differences());
    // Rows of the normalised kernels sum to about 1 (to 4 at the very most), so messages stay below 4 * weight.
    if (4 * weight > EXP_MAX) {
        if (channels == 1) return infer<float, 1, true>(field, iterations);
        return infer<V4, 0, true>(field, iterations);
    }
    if (channels == 1) return infer<float, 1, false>(field, iterations);
    if (channels == 4) return infer<V4, 1, false>(field, iterations);
    if (channels == 8) return infer<Lanes<WIDTH < 8 ? 4 : 8>::Float, WIDTH < 8 ? 2 : 1, false>(field, iterations);
    switch (channels / WIDTH) {
        case 1: return infer<V, 1, false>(field, iterations);
        case 2: return infer<V, 2, false>(field, iterations);
        case 3: return infer<V, 3, false>(field, iterations);
        case 4: return infer<V, 4, false>(field, iterations);
        default: return infer<V, 0, false>(field, iterations);
    }
}
