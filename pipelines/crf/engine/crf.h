// The dense CRF of an image: builds the lattices, chooses the channels and runs the inference.
#pragma once

#include "channels.h"
#include "lattice.h"
#include "meanfield.h"

namespace crf {

struct Parameters {
    int iterations;
    float sxy_gaussian;
    float compat_gaussian;
    float sxy;
    float srgb;
    float compat;
    const float* class_weights;  // [labels], from 0 to 1; null where all are 1
    float min_probability;
    Sharing sharing;
};

// Writes features 0 and 1 of the pixels of a row.
inline void write_positions(const Raster::Row& row, float sxy, float (*features)[Raster::STRIP]) {
    for (int i = 0; i < row.count; ++i) features[0][i] = float(int32_t(row.x) + i) / sxy;
    for (int i = 0; i < row.count; ++i) features[1][i] = float(row.y) / sxy;
}

// The lattice of the positions, for the smoothing kernel.
inline Lattice<2> spatial_lattice(const Raster& raster, float sxy) {
    const float low[2] = {};
    const float high[2] = {float(raster.width - 1) / sxy, float(raster.height - 1) / sxy};
    return build<2>(raster, low, high, [&](const Raster::Row& row, float (*features)[Raster::STRIP]) {
        write_positions(row, sxy, features);
    });
}

// The lattice of positions and colours, for the bilateral kernel.
inline Lattice<5> bilateral_lattice(const uint8_t* image, const Raster& raster, float sxy, float srgb) {
    const float white = 255.f / srgb;
    const float low[5] = {};
    const float high[5] = {float(raster.width - 1) / sxy, float(raster.height - 1) / sxy, white, white, white};
    return build<5>(raster, low, high, [&](const Raster::Row& row, float (*features)[Raster::STRIP]) {
        write_positions(row, sxy, features);
        const uint8_t* const pixels = image + 3 * (row.y * raster.width + row.x);
        for (int i = 0; i < row.count; ++i) {
            for (int c = 0; c < 3; ++c) features[2 + c][i] = float(pixels[3 * i + c]) / srgb;
        }
    });
}

// Writes the mean-field marginals, [pixels, labels], of an image, uint8 [pixels, 3], with the probabilities [pixels,
// labels]. `spatial` is the lattice of its size and `sxy_gaussian`. Returns false if a probability is NaN or not in
// [0, 1].
inline bool refine(const uint8_t* image, const float* probabilities, float* marginals, const Raster& raster, int labels,
                   const Lattice<2>& spatial, const Parameters& parameters) {
    const float weight = parameters.compat_gaussian + parameters.compat;
    const std::optional<Channels> channels =
        choose_channels(probabilities, raster.pixels(), labels, parameters.class_weights, parameters.min_probability,
                        weight, parameters.sharing);
    if (!channels) return false;
    const Lattice<5> bilateral = bilateral_lattice(image, raster, parameters.sxy, parameters.srgb);
    const int stride = padded(channels->differences());
    Field field{*channels,
                probabilities,
                marginals,
                raster,
                Array<float>(raster.pixels() * channels->differences() + WIDTH),
                VertexValues<2>(spatial, stride, parameters.compat_gaussian),
                VertexValues<5>(bilateral, stride, parameters.compat),
                {}};
    if (channels->repulsion) {
        field.mass = Array<float>(raster.pixels() + 16, 0);
        add_mass(spatial, parameters.compat_gaussian, raster.pixels(), field.mass.data());
        add_mass(bilateral, parameters.compat, raster.pixels(), field.mass.data());
    }
    infer(field, parameters.iterations, weight);
    return true;
}

}  // namespace crf
