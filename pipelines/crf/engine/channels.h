// Which labels are filtered in which channel; from probabilities to channels and from channels to marginals.
//
// Softmax does not change when all messages of a pixel change by the same amount, and filters are linear. So what is
// filtered are the differences of the marginals to the last label's, one channel less than there are labels.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "arrays.h"
#include "vectors.h"

namespace crf {

// Channels in memory for so many differences: whole vectors of the widest kind that is at least half full.
inline int padded(int differences) {
    if (differences <= 1) return 1;
    int unit = 4;
    while (unit < WIDTH && differences > unit) unit *= 2;
    return (differences + unit - 1) / unit * unit;
}

// What turns the messages of Potts' model, in which every pair of labels repels each other alike, into those of labels
// l with weights v_l, of which a pair repels each other by v_l v_k:
//
//     m_l = -v_l (S - v_l f_l),    S = sum over k of v_k f_k
//
// where f_l is the filtered marginal of l. A pass has filtered differences d_c = f_c - f_last; marginals add up to 1, so
// filtered ones add up to the filtered constant 1, the pixel's `mass`, which gives f_last and with it all others. Then
//
//     m_c - m_last = v_c^2 d_c + (v_last - v_c) S + (v_c^2 - v_last^2) f_last
//
// All arrays are [padded channels], and 0 where a row is padded.
struct Repulsion {
    Array<float> part;     // of a channel in the mass: one over its pull
    Array<float> heavy;    // of a channel in S: weight over pull
    Array<float> squared;  // weight^2
    Array<float> less;     // the last label's weight less that of the channel
    Array<float> cross;    // weight^2 less that of the last label
    float last_part;       // f_last = last_part * (mass - sum of part * d)
    float last_heavy;      // S = last_heavy * f_last + sum of heavy * d
};

// `order` holds the labels of the channels and, at its end, the label that the others are compared with: its own
// difference is 0 by definition.
//
// Labels that are improbable in the whole image share the channel `shared`. They attract hardly anything, so their
// marginals stay in the ratio of their probabilities. Each attracts only itself, not the others of the channel, so the
// channel is pulled to itself by the share of one label: the sum of squares over the square of the sum.
struct Channels {
    int labels;
    float min_probability;   // probabilities below are raised to this
    Array<int> order;        // [channels + 1]
    Array<float> share;      // [labels]: 1 for improbable labels, otherwise 0
    Array<float> pull;       // [padded channels]: 1, less for the shared channel
    Array<int32_t> present;  // [padded channels]: all bits, none where a row is padded
    int shared = -1;         // negative if no labels share a channel
    std::optional<Repulsion> repulsion;  // where labels have weights of their own

    int differences() const { return int(order.size()) - 1; }

    float raised(float p) const { return p > min_probability ? p : min_probability; }

    // p / p_last of every channel of a pixel with the probabilities `p`.
    void write_ratios(const float* p, float* ratios) const {
        typedef Lanes<4>::Float V;
        const int count = differences();
        const float inverse = 1.f / raised(p[order[count]]);
        int c = 0;
        if (shared < 0) {  // then labels are in their own order
            for (; c + 4 <= count; c += 4)
                store(ratios + c, larger(load<V>(p + c), broadcast<V>(min_probability)) * inverse);
        }
        for (; c < count; ++c) ratios[c] = raised(p[order[c]]) * inverse;
        if (shared >= 0) ratios[shared] = improbable_sum(p) * inverse;
    }

    // The marginals of a pixel. `values` of the channels and `last` are proportional to them, `inverse` is one over
    // their sum, and `ratios` are those of `write_ratios`.
    void write_marginals(const float* p, const float* ratios, const float* values, float last, float inverse,
                         float* marginals) const {
        typedef Lanes<4>::Float V;
        const int count = differences();
        int c = 0;
        if (shared >= 0) {
            const float part = values[shared] * inverse / (ratios[shared] * raised(p[order[count]]));
            int l = 0;
            for (; l + 4 <= labels; l += 4)
                store(marginals + l, larger(load<V>(p + l), broadcast<V>(min_probability)) * part);
            for (; l < labels; ++l) marginals[l] = raised(p[l]) * part;
            c = shared + 1;
        } else {
            for (; c + 4 <= count; c += 4) store(marginals + c, load<V>(values + c) * inverse);
        }
        for (; c < count; ++c) marginals[order[c]] = values[c] * inverse;
        marginals[order[count]] = last * inverse;
    }

private:
    float improbable_sum(const float* p) const {
        typedef Lanes<4>::Float V;
        V sums = {};
        int l = 0;
        for (; l + 4 <= labels; l += 4)
            sums = fma(larger(load<V>(p + l), broadcast<V>(min_probability)), load<V>(&share[l]), sums);
        float total = sum(sums);
        for (; l < labels; ++l) total += raised(p[l]) * share[l];
        return total;
    }
};

// How many labels may share a channel: the least probable, while their largest probabilities add up to less than
// `max_sum` and no marginal can move by more than `max_error`.
struct Sharing {
    float max_sum;
    float max_error;
};

// What is known of an image's probabilities after one look at them.
struct Survey {
    Array<float> largest;  // [labels]
    float smallest_sum;    // over the labels of a pixel
    bool valid;            // no value is NaN or outside [0, 1]
};

inline Survey survey(const float* probabilities, size_t pixels, int labels) {
    typedef Lanes<4>::Float V;
    Array<float> smallest(labels);
    Array<float> largest(labels);
    std::memcpy(smallest.data(), probabilities, labels * sizeof(float));
    std::memcpy(largest.data(), probabilities, labels * sizeof(float));
    float* const low = smallest.data();
    float* const high = largest.data();
    bool valid = true;
    float smallest_sum = 1;
    for (size_t i = 0; i < pixels; ++i) {
        const float* const p = probabilities + i * labels;
        V sums = {};
        int l = 0;
        for (; l + 4 <= labels; l += 4) {
            const V value = load<V>(p + l);
            store(low + l, smaller(load<V>(low + l), value));
            store(high + l, larger(load<V>(high + l), value));
            sums += value;
        }
        float total = sum(sums);
        for (; l < labels; ++l) {
            low[l] = p[l] < low[l] ? p[l] : low[l];
            high[l] = p[l] > high[l] ? p[l] : high[l];
            total += p[l];
        }
        smallest_sum = total < smallest_sum ? total : smallest_sum;
        valid &= total == total;  // false if a value is NaN
    }
    for (int l = 0; l < labels; ++l) valid &= low[l] >= 0 && high[l] <= 1.001f;
    return {std::move(largest), smallest_sum, valid};
}

// The labels from the smallest value to the largest.
inline Array<int> ascending(const Array<float>& values) {
    const int count = int(values.size());
    Array<int> labels(count);
    for (int l = 0; l < count; ++l) {
        int place = l;
        while (place > 0 && values[labels[place - 1]] > values[l]) {
            labels[place] = labels[place - 1];
            --place;
        }
        labels[place] = l;
    }
    return labels;
}

// The most that sharing a channel can move a marginal by, in the first order of the messages and per unit of the
// kernels' weight. `largest` are the largest probabilities of the labels that share it, in ascending order. Sharing
// puts pull * sum(x) in the place of every message x_l <= largest_l, which changes the exponent of the pixel's other
// marginals by sum(p_l (x_l - pull * sum(x))). This is greatest where some of the labels with the largest maxima are
// at them and the others are at 0.
inline float sharing_error(const float* largest, int count) {
    float sum = 0;
    float squares = 0;
    for (int i = 0; i < count; ++i) {
        sum += largest[i];
        squares += largest[i] * largest[i];
    }
    float sum_above = 0;
    float squares_above = 0;
    float error = 0;
    for (int i = count - 1; i >= 0; --i) {
        sum_above += largest[i];
        squares_above += largest[i] * largest[i];
        error = std::max(error, squares_above - squares / (sum * sum) * sum_above * sum_above);
    }
    return error;
}

inline Repulsion choose_repulsion(const Channels& channels, const float* class_weights) {
    const int stride = int(channels.pull.size());
    const float last = class_weights[channels.order[channels.differences()]];
    Repulsion repulsion{Array<float>(stride, 0), Array<float>(stride, 0), Array<float>(stride, 0),
                        Array<float>(stride, 0), Array<float>(stride, 0), 1.f, last};
    for (int c = 0; c < channels.differences(); ++c) {
        const float weight = class_weights[channels.order[c]];
        repulsion.part[c] = 1.f / channels.pull[c];
        repulsion.heavy[c] = weight / channels.pull[c];
        repulsion.squared[c] = weight * weight;
        repulsion.less[c] = last - weight;
        repulsion.cross[c] = weight * weight - last * last;
        repulsion.last_part += repulsion.part[c];
        repulsion.last_heavy += repulsion.heavy[c];
    }
    repulsion.last_part = 1.f / repulsion.last_part;
    return repulsion;
}

// The channels for an image; nothing if a probability is NaN or not in [0, 1]. `weight`: of both kernels.
// `class_weights`: of the labels, null where all are 1. Only labels of weight 1 share a channel: others may gain by much
// what they lack in probability.
inline std::optional<Channels> choose_channels(const float* probabilities, size_t pixels, int labels,
                                               const float* class_weights, float min_probability, float weight,
                                               Sharing sharing) {
    const Survey seen = survey(probabilities, pixels, labels);
    if (!seen.valid) return std::nullopt;

    Channels channels;
    channels.labels = labels;
    channels.min_probability = min_probability;

    // How many labels share a channel. Where the probabilities of a pixel add up to less than those of a softmax,
    // normalisation raises them.
    const Array<int> by_size = ascending(seen.largest);
    Array<float> largest(labels);
    Array<float> share(labels, 0);
    float sum = 0;
    float squares = 0;
    int improbable = 0;
    int shared = -1;  // stands for all of them
    for (int i = 0; i < labels - 1; ++i) {
        const int label = by_size[i];
        if (class_weights && class_weights[label] != 1) continue;
        const float p = channels.raised(seen.largest[label]) / seen.smallest_sum;
        largest[improbable] = p;
        if (sum + p > sharing.max_sum) break;
        if (weight * sharing_error(largest.data(), improbable + 1) > sharing.max_error) break;
        if (improbable == 0) shared = label;
        share[label] = 1;
        ++improbable;
        sum += p;
        squares += p * p;
    }
    if (improbable > 1) {
        channels.shared = 0;
        channels.order.append(shared);
        for (int i = 0; i < labels; ++i) {
            if (!share[by_size[i]]) channels.order.append(by_size[i]);
        }
        channels.share = std::move(share);
    } else {
        for (int l = 0; l < labels; ++l) channels.order.append(l);
        channels.share = Array<float>(labels, 0);
    }
    const int stride = padded(channels.differences());
    channels.pull = Array<float>(stride);
    channels.present = Array<int32_t>(stride);
    for (int c = 0; c < stride; ++c) {
        channels.pull[c] = c == channels.shared ? squares / (sum * sum) : 1.f;
        channels.present[c] = c < channels.differences() ? -1 : 0;
    }
    if (class_weights) channels.repulsion = choose_repulsion(channels, class_weights);
    return channels;
}

}  // namespace crf
