// Mean-field inference over two lattices: one pass over the pixels per iteration, and a blur of both lattices after it.
//
// Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011). What is
// filtered are differences of marginals (see channels.h), and what is kept of the unary are the ratios p_l / p_last.
// The marginals of an iteration are never stored: a pass slices the messages, forms p * exp(message) / sum, and splats
// that for the next iteration.
#pragma once

#include <algorithm>
#include <cstring>

#include "arrays.h"
#include "channels.h"
#include "lattice.h"
#include "vectors.h"

namespace crf {

// Values of the vertices of a lattice, [vertices, padded channels]: those that are sliced, and those that are splatted
// meanwhile.
template <int D>
struct VertexValues {
    VertexValues(const Lattice<D>& lattice, int channels, float weight)
        : lattice(lattice),
          scale(weight * Lattice<D>::alpha()),
          sliced(size_t(lattice.vertices) * channels),
          splatted(size_t(lattice.vertices) * channels, 0) {}

    const Lattice<D>& lattice;
    const float scale;  // of the messages
    Array<float> sliced;
    Array<float> splatted;

    // What was splatted is sliced next.
    void turn() {
        std::swap(sliced, splatted);
        std::memset(splatted.data(), 0, splatted.size() * sizeof(float));
    }
};

// All that one inference works on.
struct Field {
    const Channels& channels;
    const float* probabilities;  // [pixels, labels]
    float* marginals;            // [pixels, labels]
    Raster raster;
    Array<float> ratios;  // [pixels, channels] in the raster's order, and room for one more vector
    VertexValues<2> gaussian;
    VertexValues<5> bilateral;
    Array<float> mass;  // [pixels] in the raster's order, and room for one more vector; empty if all labels weigh alike

    void fill_ratios() {
        const size_t labels = channels.labels;
        const size_t differences = channels.differences();
        raster.for_each_row([&](const Raster::Row& row) {
            const float* p = probabilities + (row.y * raster.width + row.x) * labels;
            for (int i = 0; i < row.count; ++i) {
                channels.write_ratios(p, &ratios[(row.number + i) * differences]);
                p += labels;
            }
        });
    }
};

// A lattice as a pass over the pixels sees it.
template <int D>
struct Taps {
    explicit Taps(VertexValues<D>& values)
        : corners(values.lattice.corners.data()),
          weights(values.lattice.weights.data()),
          sliced(values.sliced.data()),
          splatted(values.splatted.data()),
          scale(values.scale) {}

    const uint32_t* const corners;
    const float* const weights;
    const float* const sliced;
    float* const splatted;
    const float scale;

    const uint32_t* corner(size_t pixel) const { return corners + pixel * (D + 1); }
    const float* weight(size_t pixel) const { return weights + pixel * (D + 1); }
};

// Adds the message of a lattice to a pixel: G vectors of the channels from `offset` on, of `stride` channels.
template <class V, int G, int D>
inline void slice(V* messages, const Taps<D>& taps, size_t pixel, size_t stride, size_t offset) {
    const uint32_t* const corner = taps.corner(pixel);
    const float* const weight = taps.weight(pixel);
    V total[G] = {};
    for (int k = 0; k <= D; ++k) {
        const float* const row = address(taps.sliced + offset, corner[k], stride);
        for (int i = 0; i < G; ++i) total[i] = fma(broadcast<V>(weight[k]), load<V>(row + i * lanes<V>), total[i]);
    }
    for (int i = 0; i < G; ++i) messages[i] = fma(total[i], broadcast<V>(taps.scale), messages[i]);
}

// Adds values of a pixel to the corners around it.
template <class V, int G, int D>
inline void splat(const V* values, const Taps<D>& taps, size_t pixel, size_t stride, size_t offset) {
    const uint32_t* const corner = taps.corner(pixel);
    const float* const weight = taps.weight(pixel);
    for (int k = 0; k <= D; ++k) {
        float* const row = address(taps.splatted + offset, corner[k], stride);
        for (int i = 0; i < G; ++i)
            store(row + i * lanes<V>, fma(broadcast<V>(weight[k]), values[i], load<V>(row + i * lanes<V>)));
    }
}

// The message of a lattice to a pixel, for a single channel.
template <int D>
inline float slice_number(const Taps<D>& taps, size_t pixel) {
    const uint32_t* const corner = taps.corner(pixel);
    const float* const weight = taps.weight(pixel);
    float total = 0;
    for (int k = 0; k <= D; ++k) total = fma(weight[k], *address(taps.sliced, corner[k]), total);
    return total * taps.scale;
}

template <int D>
inline void splat_number(float value, const Taps<D>& taps, size_t pixel) {
    const uint32_t* const corner = taps.corner(pixel);
    const float* const weight = taps.weight(pixel);
    for (int k = 0; k <= D; ++k) {
        float* const at = address(taps.splatted, corner[k]);
        *at = fma(weight[k], value, *at);
    }
}

// Adds to every row of a chain half of its two neighbours, in place: B vectors of the channels from `offset` on.
template <class V, int B>
void blur_rows(const Chains& chains, float* values, size_t stride, size_t offset) {
    constexpr size_t AHEAD = 64;  // rows that are prefetched
    const size_t count = chains.size();
    if (!count) return;
    const uint32_t* const entries = chains.data();
    values += offset;
    auto row_of = [&](uint32_t entry) { return address(values, entry & ~LAST, stride); };
    float* row = row_of(entries[0]);
    V here[B];
    V half_before[B] = {};
    for (int b = 0; b < B; ++b) here[b] = load<V>(row + b * lanes<V>);
    for (size_t i = 0; i < count; ++i) {
        const float half = HALF[entries[i] & LAST];
        float* const next = row_of(entries[i + 1 < count ? i + 1 : i]);
        const float* const far = address(values, entries[i + AHEAD < count ? i + AHEAD : i], stride);
        for (size_t k = 0; k < B * lanes<V>; k += 16) __builtin_prefetch(far + k, 1);
        for (int b = 0; b < B; ++b) {
            const V after = load<V>(next + b * lanes<V>);
            const V half_here = broadcast<V>(half) * here[b];
            store(row + b * lanes<V>, fma(broadcast<V>(half), after, here[b] + half_before[b]));
            half_before[b] = half_here;
            here[b] = after;
        }
        row = next;
    }
}

template <class V, int B, int D>
void blur(VertexValues<D>& values, size_t stride) {
    float* const rows = values.splatted.data();
    for (const Chains& chains : values.lattice.chains) {
        if constexpr (lanes<V> == 1) {
            blur_numbers(chains, rows);
        } else if constexpr (B > 0) {
            blur_rows<V, B>(chains, rows, B * lanes<V>, 0);
        } else {
            for (size_t offset = 0; offset < stride; offset += lanes<V>) blur_rows<V, 1>(chains, rows, stride, offset);
        }
    }
    values.turn();
}

// Adds what a lattice filters from the constant 1.
template <int D>
void add_mass(const Lattice<D>& lattice, float weight, size_t pixels, float* mass) {
    VertexValues<D> values(lattice, 1, weight);
    const Taps<D> splatting(values);
    for (size_t i = 0; i < pixels; ++i) splat_number(1.f, splatting, i);
    blur<float, 1>(values, 1);
    const Taps<D> slicing(values);
    for (size_t i = 0; i < pixels; ++i) mass[i] += slice_number(slicing, i);
}

// The first pass has no messages yet; the last one writes the marginals.
enum class Stage { first, middle, last };

// One pass over the pixels. V is the vector, and B how many of them hold a pixel's channels, 0 for any number.
// `guarded` subtracts the largest message first, for weights whose messages could leave the range of exp. `weighted`
// labels have weights of their own.
//
// From a message to what is splatted is one long chain of dependent operations, longer than a processor looks ahead.
// Every step is therefore taken for a group of pixels before the next step. The steps are inlined: only then does the
// compiler keep the members of this class in registers; without that, refining took 15 to 35 % longer.
template <class V, int B, Stage stage, bool guarded, bool weighted>
class Pass {
public:
    explicit Pass(Field& field)
        : field_(field),
          gaussian_(field.gaussian),
          bilateral_(field.bilateral),
          differences_(field.channels.differences()),
          blocks_(B ? B : padded(field.channels.differences()) / lanes<V>),
          stride_(size_t(blocks_) * lanes<V>) {}

    [[gnu::always_inline]] void run() const {
        V fixed[GROUP * FIXED] = {};
        Array<V> variable(B ? 0 : GROUP * blocks_, 0);
        V* const values = B ? fixed : variable.data();
        float last[GROUP];
        float inverses[GROUP];
        std::fill(last, last + GROUP, 1.f);
        Cursor cursor(field_.raster);
        const size_t pixels = field_.raster.pixels();
        for (size_t start = 0; start < pixels; start += GROUP) {
            const int count = pixels - start < GROUP ? int(pixels - start) : GROUP;
            const Group group{start, count, &field_.ratios[start * differences_], values, last, inverses};
            if (count < GROUP) std::fill(values, values + GROUP * blocks_, V{});  // exp is taken of the whole group
            if constexpr (stage != Stage::first) {
                for (int i = 0; i < count; ++i) {
                    slice_messages(group, i);
                    if constexpr (guarded && !weighted) subtract_peak(group, i);
                }
                if constexpr (weighted) weigh(group);
                if constexpr (guarded && weighted) {
                    for (int i = 0; i < count; ++i) subtract_peak(group, i);
                }
                exponentiate(group);
            }
            multiply_by_ratios(group);
            sum_up(group);
            for (int i = 0; i < count; ++i) {
                if constexpr (stage == Stage::last) {
                    write_marginals(group, i, cursor.next());
                } else {
                    normalise(group, i);
                    splat_values(group, i);
                }
            }
        }
    }

private:
    static constexpr int GROUP = 8;
    static constexpr int FIXED = B ? B : 1;  // vectors that are sliced and splatted at a time
    typedef typename Lanes<lanes<V>>::Int I;

    // Pixels from `start` on.
    struct Group {
        size_t start;
        int count;
        const float* ratios;  // [count, differences]
        V* values;            // [GROUP, blocks]: messages, then what is proportional to marginals, then differences
        float* last;          // [GROUP]: what is proportional to the last label's marginal
        float* inverses;      // [GROUP]: one over the sum of values and last
    };

    [[gnu::always_inline]] void slice_messages(const Group& group, int i) const {
        V* const values = group.values + i * blocks_;
        for (int b = 0; b < blocks_; b += FIXED) {
            V messages[FIXED] = {};
            slice<V, FIXED>(messages, gaussian_, group.start + i, stride_, size_t(b) * lanes<V>);
            slice<V, FIXED>(messages, bilateral_, group.start + i, stride_, size_t(b) * lanes<V>);
            for (int k = 0; k < FIXED; ++k) values[b + k] = messages[k];
        }
    }

    // See Repulsion.
    [[gnu::always_inline]] void weigh(const Group& group) const {
        typedef Lanes<4>::Float Four;
        const Repulsion& repulsion = *field_.channels.repulsion;
        auto of_channel = [](const Array<float>& factors, int b) { return load<V>(&factors[b * lanes<V>]); };
        for (int i = 0; i < GROUP; i += 4) {
            V* const values = group.values + i * blocks_;
            V parts[4] = {};
            V heavy[4] = {};
            for (int k = 0; k < 4; ++k) {
                for (int b = 0; b < blocks_; ++b) {
                    const V value = values[k * blocks_ + b];
                    parts[k] = fma(of_channel(repulsion.part, b), value, parts[k]);
                    heavy[k] = fma(of_channel(repulsion.heavy, b), value, heavy[k]);
                }
            }
            const Four last = (load<Four>(&field_.mass[group.start + i]) - sums(parts)) * repulsion.last_part;
            const Four all = fma(broadcast<Four>(repulsion.last_heavy), last, sums(heavy));
            for (int k = 0; k < 4; ++k) {
                for (int b = 0; b < blocks_; ++b) {
                    V& value = values[k * blocks_ + b];
                    value = fma(of_channel(repulsion.squared, b), value,
                                fma(of_channel(repulsion.less, b), broadcast<V>(all[k]),
                                    of_channel(repulsion.cross, b) * broadcast<V>(last[k])));
                }
            }
        }
    }

    [[gnu::always_inline]] void subtract_peak(const Group& group, int i) const {
        V* const values = group.values + i * blocks_;
        V largest = {};
        for (int b = 0; b < blocks_; ++b) largest = larger(largest, values[b]);
        const float peak = maximum(largest);
        for (int b = 0; b < blocks_; ++b) values[b] -= peak;
        group.last[i] = clipped_exp(broadcast<Lanes<4>::Float>(-peak))[0];
    }

    // e^x of every element, in vectors of the widest kind.
    [[gnu::always_inline]] void exponentiate(const Group& group) const {
        typedef Lanes<WIDTH>::Float Widest;
        float* const values = reinterpret_cast<float*>(group.values);
        for (size_t i = 0; i < GROUP * stride_; i += WIDTH) {
            const Widest x = load<Widest>(values + i);
            store(values + i, guarded ? clipped_exp(x) : exp(x));
        }
    }

    [[gnu::always_inline]] void multiply_by_ratios(const Group& group) const {
        for (int i = 0; i < group.count; ++i) {
            for (int b = 0; b < blocks_; ++b) {
                const I present = load<I>(&field_.channels.present[b * lanes<V>]);
                const V ratio = bits_of<V>(load<I>(group.ratios + i * differences_ + b * lanes<V>) & present);
                V& value = group.values[i * blocks_ + b];
                value = stage == Stage::first ? ratio : ratio * value;
            }
        }
    }

    [[gnu::always_inline]] void sum_up(const Group& group) const {
        for (int i = 0; i < GROUP; i += 4) {
            V rows[4] = {};
            for (int k = 0; k < 4; ++k) {
                for (int b = 0; b < blocks_; ++b) rows[k] += group.values[(i + k) * blocks_ + b];
            }
            store(group.inverses + i, 1.f / (sums(rows) + load<Lanes<4>::Float>(group.last + i)));
        }
    }

    // Turns values into differences of marginals.
    [[gnu::always_inline]] void normalise(const Group& group, int i) const {
        V* const values = group.values + i * blocks_;
        const float inverse = group.inverses[i];
        for (int b = 0; b < blocks_; ++b) {
            const V pull = load<V>(&field_.channels.pull[b * lanes<V>]);
            values[b] = fma(values[b] * pull, broadcast<V>(inverse), broadcast<V>(-group.last[i] * inverse));
        }
    }

    [[gnu::always_inline]] void splat_values(const Group& group, int i) const {
        const V* const values = group.values + i * blocks_;
        for (int b = 0; b < blocks_; b += FIXED) {
            splat<V, FIXED>(values + b, gaussian_, group.start + i, stride_, size_t(b) * lanes<V>);
            splat<V, FIXED>(values + b, bilateral_, group.start + i, stride_, size_t(b) * lanes<V>);
        }
    }

    [[gnu::always_inline]] void write_marginals(const Group& group, int i, size_t pixel) const {
        const size_t offset = pixel * field_.channels.labels;
        const float* const values = reinterpret_cast<const float*>(group.values + i * blocks_);
        field_.channels.write_marginals(field_.probabilities + offset, group.ratios + i * differences_, values,
                                        group.last[i], group.inverses[i], field_.marginals + offset);
    }

    Field& field_;
    const Taps<2> gaussian_;
    const Taps<5> bilateral_;
    const size_t differences_;
    const int blocks_;     // vectors of a pixel
    const size_t stride_;  // padded channels
};

// The same for a single channel, where the vector runs over pixels.
template <Stage stage, bool guarded, bool weighted>
class SinglePass {
public:
    explicit SinglePass(Field& field) : field_(field), gaussian_(field.gaussian), bilateral_(field.bilateral) {}

    [[gnu::always_inline]] void run() const {
        Cursor cursor(field_.raster);
        const size_t pixels = field_.raster.pixels();
        for (size_t start = 0; start < pixels; start += WIDTH) {
            const int count = pixels - start < WIDTH ? int(pixels - start) : WIDTH;
            float ratios[WIDTH] = {};
            std::memcpy(ratios, &field_.ratios[start], count * sizeof(float));
            V message = {};
            if constexpr (stage != Stage::first) {
                message = slice_messages(start, count);
                if constexpr (weighted) message = weigh(message, start);
            }
            V last = broadcast<V>(1.f);
            if constexpr (guarded) {
                const V peak = larger(message, V{});
                message -= peak;
                last = clipped_exp(-peak);
            }
            const V value = load<V>(ratios) * (guarded ? clipped_exp(message) : exp(message));
            const V sum = value + last;
            if constexpr (stage == Stage::last) {
                write_marginals(start, count, value / sum, last / sum, cursor);
            } else {
                splat_values(start, count, (field_.channels.pull[0] * value - last) / sum);
            }
        }
    }

private:
    typedef Lanes<WIDTH>::Float V;

    [[gnu::always_inline]] V slice_messages(size_t start, int count) const {
        float messages[WIDTH] = {};
        for (int i = 0; i < count; ++i)
            messages[i] = slice_number(gaussian_, start + i) + slice_number(bilateral_, start + i);
        return load<V>(messages);
    }

    // See Repulsion.
    [[gnu::always_inline]] V weigh(V message, size_t start) const {
        const Repulsion& repulsion = *field_.channels.repulsion;
        const V last = (load<V>(&field_.mass[start]) - repulsion.part[0] * message) * repulsion.last_part;
        const V all = repulsion.heavy[0] * message + repulsion.last_heavy * last;
        return repulsion.squared[0] * message + repulsion.less[0] * all + repulsion.cross[0] * last;
    }

    [[gnu::always_inline]] void splat_values(size_t start, int count, V difference) const {
        float differences[WIDTH];
        store(differences, difference);
        for (int i = 0; i < count; ++i) {
            splat_number(differences[i], gaussian_, start + i);
            splat_number(differences[i], bilateral_, start + i);
        }
    }

    [[gnu::always_inline]] void write_marginals(size_t start, int count, V first, V last, Cursor& cursor) const {
        float firsts[WIDTH];
        float lasts[WIDTH];
        store(firsts, first);
        store(lasts, last);
        const size_t labels = field_.channels.labels;
        for (int i = 0; i < count; ++i) {
            const size_t offset = cursor.next() * labels;
            float* const marginals = field_.marginals + offset;
            if (labels == 2) {  // neither shares a channel
                marginals[0] = firsts[i];
                marginals[1] = lasts[i];
            } else {
                field_.channels.write_marginals(field_.probabilities + offset, &field_.ratios[start + i], firsts + i,
                                                lasts[i], 1.f, marginals);
            }
        }
    }

    Field& field_;
    const Taps<2> gaussian_;
    const Taps<5> bilateral_;
};

template <class V, int B, Stage stage, bool guarded, bool weighted>
void run_pass(Field& field) {
    if constexpr (lanes<V> == 1) {
        SinglePass<stage, guarded, weighted>(field).run();
    } else {
        Pass<V, B, stage, guarded, weighted>(field).run();
    }
}

template <class V, int B, bool guarded, bool weighted>
void infer(Field& field, int iterations) {
    const size_t stride = padded(field.channels.differences());
    for (int i = 0; i < iterations; ++i) {
        if (i == 0) {
            run_pass<V, B, Stage::first, guarded, weighted>(field);
        } else {
            run_pass<V, B, Stage::middle, guarded, weighted>(field);
        }
        blur<V, B>(field.gaussian, stride);
        blur<V, B>(field.bilateral, stride);
    }
    run_pass<V, B, Stage::last, guarded, weighted>(field);
}

// `weight`: of both kernels.
template <bool weighted>
void infer(Field& field, int iterations, float weight) {
    typedef Lanes<4>::Float Four;
    typedef Lanes<WIDTH < 8 ? 4 : 8>::Float Eight;  // or two of four
    typedef Lanes<WIDTH>::Float Widest;
    const int channels = padded(field.channels.differences());
    // Rows of the normalised kernels sum to about 1 (to 4 at the very most), so messages stay below 4 * weight.
    if (4 * weight > EXP_MAX) {
        if (channels == 1) return infer<float, 1, true, weighted>(field, iterations);
        return infer<Four, 0, true, weighted>(field, iterations);
    }
    if (channels == 1) return infer<float, 1, false, weighted>(field, iterations);
    if (channels == 4) return infer<Four, 1, false, weighted>(field, iterations);
    if (channels == 8) return infer<Eight, 8 / lanes<Eight>, false, weighted>(field, iterations);
    switch (channels / WIDTH) {
        case 1: return infer<Widest, 1, false, weighted>(field, iterations);
        case 2: return infer<Widest, 2, false, weighted>(field, iterations);
        case 3: return infer<Widest, 3, false, weighted>(field, iterations);
        case 4: return infer<Widest, 4, false, weighted>(field, iterations);
        default: return infer<Widest, 0, false, weighted>(field, iterations);
    }
}

// Writes the marginals of a field. `weight`: of both kernels.
inline void infer(Field& field, int iterations, float weight) {
    field.fill_ratios();
    if (field.channels.repulsion) return infer<true>(field, iterations, weight);
    return infer<false>(field, iterations, weight);
}

}  // namespace crf
