// The Python module: checks only what would crash, hands buffers to the algorithm and lets go of the GIL.
//
// Compiled once for every kind of machine, each time under a name of its own (MODULE), see setup.py.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "crf.h"

namespace {

using SpatialLattice = crf::Lattice<2>;

constexpr char LATTICE[] = "deeplab.crf.lattice";

// Without the GIL for as long as it lives.
class Unlocked {
public:
    Unlocked() : state_(PyEval_SaveThread()) {}
    ~Unlocked() { PyEval_RestoreThread(state_); }
    Unlocked(const Unlocked&) = delete;

private:
    PyThreadState* state_;
};

// A C-contiguous buffer for the time of a call.
class View {
public:
    View(PyObject* object, int flags) { held_ = PyObject_GetBuffer(object, &view_, flags | PyBUF_ND) == 0; }
    ~View() {
        if (held_) PyBuffer_Release(&view_);
    }
    View(const View&) = delete;

    bool held() const { return held_; }
    bool holds(Py_ssize_t bytes) const { return held_ && view_.len == bytes; }

    template <class T>
    T* data() const {
        return static_cast<T*>(view_.buf);
    }

private:
    Py_buffer view_;
    bool held_;
};

// Raises the C++ exception that is being handled as a Python exception.
PyObject* raise_current() {
    try {
        throw;
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const crf::TooNarrow&) {
        PyErr_SetString(PyExc_ValueError, "a kernel is too narrow for an image of this size");
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

// Rows of vertices, up to six for each pixel, lie at offsets of 32 bits, four bytes apart.
bool in_range(Py_ssize_t height, Py_ssize_t width) { return height > 0 && width > 0 && height <= (1 << 27) / width; }

void destroy(PyObject* capsule) { delete static_cast<SpatialLattice*>(PyCapsule_GetPointer(capsule, LATTICE)); }

PyObject* py_spatial(PyObject*, PyObject* positional, PyObject* keywords) {
    const char* const names[] = {"height", "width", "sxy", nullptr};
    Py_ssize_t height;
    Py_ssize_t width;
    float sxy;
    if (!PyArg_ParseTupleAndKeywords(positional, keywords, "nn$f:spatial", const_cast<char**>(names), &height, &width,
                                     &sxy))
        return nullptr;
    if (!in_range(height, width)) return PyErr_Format(PyExc_ValueError, "no image is %zdx%zd", width, height);
    SpatialLattice* lattice = nullptr;
    try {
        const Unlocked unlocked;
        lattice = new SpatialLattice(crf::spatial_lattice({size_t(height), size_t(width)}, sxy));
    } catch (...) {
        return raise_current();
    }
    PyObject* const capsule = PyCapsule_New(lattice, LATTICE, destroy);
    if (!capsule) delete lattice;
    return capsule;
}

PyObject* py_refine(PyObject*, PyObject* positional, PyObject* keywords) {
    const char* const names[] = {
        "image", "probabilities", "marginals", "shape", "spatial", "iterations", "sxy_gaussian", "compat_gaussian",
        "sxy", "srgb", "compat", "class_weights", "min_probability", "max_shared_sum", "max_shared_error", nullptr};
    PyObject* image_object;
    PyObject* probabilities_object;
    PyObject* marginals_object;
    Py_ssize_t height;
    Py_ssize_t width;
    int labels;
    PyObject* capsule;
    PyObject* class_weights_object;
    crf::Parameters parameters;
    if (!PyArg_ParseTupleAndKeywords(positional, keywords, "$OOO(nni)OifffffOfff:refine", const_cast<char**>(names),
                                     &image_object, &probabilities_object, &marginals_object, &height, &width, &labels,
                                     &capsule, &parameters.iterations, &parameters.sxy_gaussian,
                                     &parameters.compat_gaussian, &parameters.sxy, &parameters.srgb, &parameters.compat,
                                     &class_weights_object, &parameters.min_probability, &parameters.sharing.max_sum,
                                     &parameters.sharing.max_error))
        return nullptr;
    const auto* const spatial = static_cast<SpatialLattice*>(PyCapsule_GetPointer(capsule, LATTICE));
    if (!spatial) return nullptr;
    const View image(image_object, PyBUF_SIMPLE);
    const View probabilities(probabilities_object, PyBUF_SIMPLE);
    const View marginals(marginals_object, PyBUF_WRITABLE);
    const View class_weights(class_weights_object, PyBUF_SIMPLE);
    if (!image.held() || !probabilities.held() || !marginals.held() || !class_weights.held()) return nullptr;
    const Py_ssize_t pixels = in_range(height, width) ? height * width : 0;
    const Py_ssize_t bytes = pixels * labels * Py_ssize_t(sizeof(float));
    if (!pixels || labels < 2 || parameters.iterations < 1 || size_t(pixels) != spatial->pixels ||
        !image.holds(3 * pixels) || !probabilities.holds(bytes) || !marginals.holds(bytes) ||
        !(class_weights.holds(0) || class_weights.holds(labels * Py_ssize_t(sizeof(float))))) {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
        return nullptr;
    }
    parameters.class_weights = class_weights.holds(0) ? nullptr : class_weights.data<const float>();
    bool valid = false;
    try {
        const Unlocked unlocked;
        valid = crf::refine(image.data<const uint8_t>(), probabilities.data<const float>(), marginals.data<float>(),
                            {size_t(height), size_t(width)}, labels, *spatial, parameters);
    } catch (...) {
        return raise_current();
    }
    return PyBool_FromLong(valid);
}

// Appends `name` to the list `names` where `supported`; on failure, clears the list.
[[maybe_unused]] void append_if(bool supported, PyObject*& names, const char* name) {
    if (!supported || !names) return;
    PyObject* const text = PyUnicode_FromString(name);
    if (!text || PyList_Append(names, text)) Py_CLEAR(names);
    Py_XDECREF(text);
}

PyObject* py_supported(PyObject*, PyObject*) {
    PyObject* names = PyList_New(0);
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    append_if(avx512, names, "avx512");
    append_if(avx2, names, "avx2");
#endif
    return names;
}

template <class Function>
PyCFunction as_method(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"supported", py_supported, METH_NOARGS,
     "supported()\n\nThe names of the builds, besides baseline, that this processor can run, the fastest first."},
    {"spatial", as_method(py_spatial), METH_VARARGS | METH_KEYWORDS,
     "spatial(height, width, *, sxy)\n\nThe lattice of the positions of an image of that size, for `refine`."},
    {"refine", as_method(py_refine), METH_VARARGS | METH_KEYWORDS,
     "refine(*, image, probabilities, marginals, shape, spatial, iterations, sxy_gaussian, compat_gaussian, sxy,\n"
     "       srgb, compat, class_weights, min_probability, max_shared_sum, max_shared_error)\n\n"
     "Writes `marginals`; False if a probability is NaN or not in [0, 1]. See pipelines/crf/refine.py."},
    {nullptr, nullptr, 0, nullptr}};

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define INIT_OF(name) PyInit_##name
#define INIT(name) INIT_OF(name)

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, TEXT(MODULE), nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC INIT(MODULE)() { return PyModule_Create(&definition); }
