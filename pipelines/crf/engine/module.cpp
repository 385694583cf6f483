// The Python module: checks nothing but what would crash, hands buffers to the engine and lets go of the GIL.
//
// Compiled once for every kind of machine under a name of its own (MODULE), see setup.py.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "meanfield.h"

namespace {

constexpr char LATTICE[] = "deeplab.crf.lattice";

// Features 0 and 1 of pixels from (x, y) to the right.
void positions(size_t x, size_t y, int count, float sxy, float (*features)[Raster::STRIP]) {
    for (int i = 0; i < count; ++i) features[0][i] = float(int32_t(x) + i) / sxy;
    for (int i = 0; i < count; ++i) features[1][i] = float(y) / sxy;
}

Lattice<2> spatial_lattice(const Raster& raster, float sxy) {
    const float low[2] = {}, high[2] = {float(raster.width - 1) / sxy, float(raster.height - 1) / sxy};
    return build<2>(raster, low, high, [&](size_t x, size_t y, int count, float (*features)[Raster::STRIP]) {
        positions(x, y, count, sxy, features);
    });
}

Lattice<5> bilateral_lattice(const uint8_t* image, const Raster& raster, float sxy, float srgb) {
    const float low[5] = {}, white = 255.f / srgb;
    const float high[5] = {float(raster.width - 1) / sxy, float(raster.height - 1) / sxy, white, white, white};
    return build<5>(raster, low, high, [&](size_t x, size_t y, int count, float (*features)[Raster::STRIP]) {
        positions(x, y, count, sxy, features);
        const uint8_t* pixel = image + 3 * (y * raster.width + x);
        for (int i = 0; i < count; ++i)
            for (int c = 0; c < 3; ++c) features[2 + c][i] = float(pixel[3 * i + c]) / srgb;
    });
}

// Which labels may share a channel: the least probable, while their largest probabilities add up to less than `sum` and
// no marginal can move by more than `error`.
struct Sharing {
    float sum, error;
};

// The most that sharing a channel moves a marginal by, in the first order of the messages and per unit of the kernels'
// weight. `most` are the labels' largest probabilities, in ascending order. Sharing puts pull * sum(x) in the place of
// every message x_l <= most_l, which changes the exponent of the pixel's other marginals by sum(p_l (x_l - pull *
// sum(x))); this is largest where some of the labels with the largest maxima are at them and the others at 0.
float moved(const float* most, int count) {
    float sum = 0, squares = 0, above = 0, squares_above = 0, largest = 0;
    for (int i = 0; i < count; ++i) sum += most[i], squares += most[i] * most[i];
    for (int i = count; i-- > 0;) {
        above += most[i], squares_above += most[i] * most[i];
        largest = std::max(largest, squares_above - squares / (sum * sum) * above * above);
    }
    return largest;
}

// False: a value is NaN or not in [0, 1].
bool choose_channels(Channels& channels, const float* probabilities, size_t pixels, float weight, Sharing sharing) {
    typedef Lanes<4>::Float V;
    const int labels = channels.labels;
    Array<float> least(labels), most(labels);
    std::memcpy(least.data(), probabilities, labels * sizeof(float));
    std::memcpy(most.data(), probabilities, labels * sizeof(float));
    float *const lo = least.data(), *const hi = most.data();
    bool whole = true;
    float smallest = 1;
    for (size_t i = 0; i < pixels; ++i) {
        const float* p = probabilities + i * labels;
        V four = {};
        int l = 0;
        for (; l + 4 <= labels; l += 4) {
            const V value = load<V>(p + l);
            store(lo + l, smaller(load<V>(lo + l), value));
            store(hi + l, larger(load<V>(hi + l), value));
            four += value;
        }
        float total = sum(four);
        for (; l < labels; ++l) {
            lo[l] = p[l] < lo[l] ? p[l] : lo[l];
            hi[l] = p[l] > hi[l] ? p[l] : hi[l];
            total += p[l];
        }
        smallest = total < smallest ? total : smallest;
        whole &= total == total;  // false if any is NaN
    }
    for (int l = 0; l < labels; ++l) whole &= lo[l] >= 0 && hi[l] <= 1.001f;
    if (!whole) return false;
    Array<int> by_size(labels);
    for (int l = 0; l < labels; ++l) {
        int at = l;
        for (; at > 0 && hi[by_size[at - 1]] > hi[l]; --at) by_size[at] = by_size[at - 1];
        by_size[at] = l;
    }
    // Bounds are those of a softmax; probabilities that add up to less are raised by normalisation.
    Array<float> ascending(labels);
    float sum = 0, squares = 0;
    int improbable = 0;
    for (; improbable < labels - 1; ++improbable) {
        const float p = channels.raised(hi[by_size[improbable]]) / smallest;
        ascending[improbable] = p;
        if (sum + p > sharing.sum || weight * moved(ascending.data(), improbable + 1) > sharing.error) break;
        sum += p, squares += p * p;
    }
    if (improbable < 2) improbable = 0;
    channels.share = Array<float>(labels, 0);
    for (int i = 0; i < improbable; ++i) channels.share[by_size[i]] = 1;
    if (improbable) {
        // One of them lends the channel its place in the order.
        channels.shared = 0;
        *channels.order.extend(1) = by_size[0];
        for (int i = improbable; i < labels; ++i) *channels.order.extend(1) = by_size[i];
    } else {
        for (int l = 0; l < labels; ++l) *channels.order.extend(1) = l;
    }
    const int stride = padded(channels.differences());
    channels.pull = Array<float>(stride);
    channels.present = Array<int32_t>(stride);
    for (int c = 0; c < stride; ++c) {
        channels.pull[c] = c == channels.shared ? squares / (sum * sum) : 1.f;
        channels.present[c] = c < channels.differences() ? -1 : 0;
    }
    return true;
}

struct Parameters {
    int iterations;
    float gaussian, sxy, srgb, bilateral, least;
    Sharing sharing;
};

bool refine(const uint8_t* image, const float* probabilities, float* marginals, const Raster& raster, int labels,
            const Lattice<2>& spatial, const Parameters& parameters) {
    const size_t pixels = raster.pixels();
    Channels channels;
    channels.labels = labels;
    channels.least = parameters.least;
    const float weight = parameters.gaussian + parameters.bilateral;
    if (!choose_channels(channels, probabilities, pixels, weight, parameters.sharing)) return false;
    const Lattice<5> bilateral = bilateral_lattice(image, raster, parameters.sxy, parameters.srgb);
    const int stride = padded(channels.differences());
    Field field{channels,
                probabilities,
                marginals,
                raster,
                Array<float>(pixels * channels.differences() + WIDTH),
                Values<2>(spatial, stride, parameters.gaussian),
                Values<5>(bilateral, stride, parameters.bilateral)};
    infer(field, parameters.iterations, weight);
    return true;
}

PyObject* raise_current() {
    try {
        throw;
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    } catch (const TooNarrow&) {
        PyErr_SetString(PyExc_ValueError, "a kernel is too narrow for a picture of this size");
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

void destroy(PyObject* capsule) { delete static_cast<Lattice<2>*>(PyCapsule_GetPointer(capsule, LATTICE)); }

// Rows of vertices, up to six for a pixel, lie at offsets of 32 bits, four bytes apart.
bool in_range(Py_ssize_t height, Py_ssize_t width) {
    return height > 0 && width > 0 && height <= (1 << 27) / width;
}

PyObject* py_spatial(PyObject*, PyObject* arguments) {
    Py_ssize_t height, width;
    float sxy;
    if (!PyArg_ParseTuple(arguments, "nnf", &height, &width, &sxy)) return nullptr;
    if (!in_range(height, width)) return PyErr_Format(PyExc_ValueError, "no picture is %zdx%zd", width, height);
    Lattice<2>* lattice = nullptr;
    PyThreadState* state = PyEval_SaveThread();
    try {
        lattice = new Lattice<2>(spatial_lattice({size_t(height), size_t(width)}, sxy));
    } catch (...) {
        PyEval_RestoreThread(state);
        return raise_current();
    }
    PyEval_RestoreThread(state);
    PyObject* capsule = PyCapsule_New(lattice, LATTICE, destroy);
    if (!capsule) delete lattice;
    return capsule;
}

// A C-contiguous buffer for the time of a call.
class View {
public:
    View(PyObject* object, int flags) { held_ = PyObject_GetBuffer(object, &view_, flags | PyBUF_ND) == 0; }
    ~View() {
        if (held_) PyBuffer_Release(&view_);
    }
    bool holds(Py_ssize_t bytes) const { return held_ && view_.len == bytes; }
    bool held() const { return held_; }
    void* data() const { return view_.buf; }

private:
    Py_buffer view_;
    bool held_;
};

PyObject* py_refine(PyObject*, PyObject* arguments) {
    PyObject *image_object, *probabilities_object, *marginals_object, *capsule;
    Py_ssize_t height, width;
    int labels;
    Parameters p;
    if (!PyArg_ParseTuple(arguments, "OOO(nni)Oifffffff", &image_object, &probabilities_object, &marginals_object,
                          &height, &width, &labels, &capsule, &p.iterations, &p.gaussian, &p.sxy, &p.srgb,
                          &p.bilateral, &p.least, &p.sharing.sum, &p.sharing.error))
        return nullptr;
    auto* spatial = static_cast<Lattice<2>*>(PyCapsule_GetPointer(capsule, LATTICE));
    if (!spatial) return nullptr;
    const View image(image_object, 0), probabilities(probabilities_object, 0);
    const View marginals(marginals_object, PyBUF_WRITABLE);
    if (!image.held() || !probabilities.held() || !marginals.held()) return nullptr;
    const Py_ssize_t pixels = in_range(height, width) ? height * width : 0;
    const Py_ssize_t bytes = pixels * labels * Py_ssize_t(sizeof(float));
    if (!pixels || labels < 2 || p.iterations < 1 || size_t(pixels) != spatial->pixels || !image.holds(3 * pixels) ||
        !probabilities.holds(bytes) || !marginals.holds(bytes)) {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
        return nullptr;
    }
    bool valid = false;
    PyThreadState* state = PyEval_SaveThread();
    try {
        valid = refine(static_cast<const uint8_t*>(image.data()), static_cast<const float*>(probabilities.data()),
                       static_cast<float*>(marginals.data()), {size_t(height), size_t(width)}, labels, *spatial, p);
    } catch (...) {
        PyEval_RestoreThread(state);
        return raise_current();
    }
    PyEval_RestoreThread(state);
    return PyBool_FromLong(valid);
}

// Names of the builds for more than the plainest processor that this one can run, the fastest first.
PyObject* py_supported(PyObject*, PyObject*) {
    PyObject* names = PyList_New(0);
#if defined(__x86_64__)
    auto add = [&](bool supported, const char* name) {
        PyObject* text = supported && names ? PyUnicode_FromString(name) : nullptr;
        if (text && PyList_Append(names, text)) Py_CLEAR(names);
        Py_XDECREF(text);
    };
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    add(avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl"),
        "avx512");
    add(avx2, "avx2");
#endif
    return names;
}

PyMethodDef methods[] = {
    {"supported", py_supported, METH_NOARGS, "supported() -> names of the faster builds this processor can run"},
    {"spatial", py_spatial, METH_VARARGS, "spatial(height, width, sxy) -> lattice of positions, for `refine`"},
    {"refine", py_refine, METH_VARARGS, "refine(...) -> False if a probability is NaN or outside [0, 1]; see crf.py"},
    {nullptr, nullptr, 0, nullptr}};

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define INIT_OF(name) PyInit_##name
#define INIT(name) INIT_OF(name)

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, TEXT(MODULE), nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC INIT(MODULE)() { return PyModule_Create(&definition); }
