"""The dense CRF in double precision and the plainest NumPy: what engines are measured against.

    expected = marginals(image, probabilities, CrfOptions())

Only where a pixel lies in the lattice is computed in float32, in the order of pydensecrf's operations: on the boundary
between two simplices rounding decides, and a neighbouring simplex is another filter. For images of some thousand
pixels.
"""

from __future__ import annotations

import functools

import numpy as np

from pipelines.crf.refine import MIN_PROBABILITY
from trainer.formats.options import CrfOptions


@functools.lru_cache(maxsize=8)
def _filter_over(features: bytes, dimensions: int) -> Permutohedral:
    return Permutohedral(np.frombuffer(features, np.float32).reshape(-1, dimensions))


class Permutohedral:
    """Symmetrically normalised Gaussian filter over `features`, float32 [N, D] in units of the kernel's widths.

    Adams et al. (2010): splat to the vertices of each point's simplex, blur with 1/2, 1, 1/2 along D + 1 directions,
    slice. `corners` int [N, D + 1] and `weights` float64 [N, D + 1] say where the points lie; `neighbours` holds, for
    each direction and both ways along it, pairs: the vertices that have a neighbour there, and these neighbours.
    """

    def __init__(self, features: np.ndarray):
        count, self._dimensions = features.shape
        # pydensecrf takes points in groups of four and fills the last with the origin.
        filled = np.concatenate([features, np.zeros((-count % 4, self._dimensions), np.float32)])
        keys, weights = _simplices(filled)
        keys = keys.reshape(-1, self._dimensions + 1)
        _, first, corners = np.unique(_hashes(keys), return_index=True, return_inverse=True)
        vertices = keys[first]
        assert (vertices[corners] == keys).all(), "two vertices of one hash"
        self.corners = corners.reshape(weights.shape)[:count]
        self.weights = weights[:count].astype(np.float64)
        self._order = np.argsort(self.corners, axis=None, kind="stable")
        self._filled, self._starts = np.unique(self.corners.ravel()[self._order], return_index=True)
        steps = (self._dimensions + 1) * np.eye(self._dimensions + 1, dtype=int) - 1
        self.neighbours = [[_pairs(vertices, vertices + way) for way in (step, -step)] for step in steps]
        self._vertices = len(vertices)
        self._norm = 1 / np.sqrt(self._filter(np.ones((count, 1))) + 1e-20)

    def _filter(self, values: np.ndarray) -> np.ndarray:
        at = np.zeros((self._vertices, values.shape[1]))
        splat = self.weights.ravel()[self._order, None] * values[self._order // (self._dimensions + 1)]
        at[self._filled] = np.add.reduceat(splat, self._starts)
        for ways in self.neighbours:
            halves = [at[neighbours] / 2 for _, neighbours in ways]
            for (vertices, _), half in zip(ways, halves, strict=True):
                at[vertices] += half
        sliced = np.einsum("nk,nkc->nc", self.weights, at[self.corners])
        return sliced / (1 + 2.0**-self._dimensions)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """float64 [N, channels] -> the same, filtered."""
        return self._norm * self._filter(self._norm * values)


def _hashes(vertices: np.ndarray) -> np.ndarray:
    """int [N, D + 1] -> uint64 [N]."""
    return vertices.astype(np.uint64) @ np.random.default_rng(0).integers(0, 2**63, vertices.shape[1], np.uint64)


def _pairs(vertices: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of `wanted` are vertices, and which: two int [P]; the vertices are in the order of their hashes."""
    places = np.minimum(np.searchsorted(_hashes(vertices), _hashes(wanted)), len(vertices) - 1)
    (there,) = np.nonzero((vertices[places] == wanted).all(1))
    return there, places[there]


def _simplices(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners int [N, D + 1, D + 1] (coordinates of each) and barycentric weights float32 [N, D + 1] of points."""
    count, dimensions = features.shape
    corners = dimensions + 1
    deviation = np.float32(np.sqrt(2 / 3) * corners)
    elevated, partial = np.zeros((count, corners), np.float32), np.zeros(count, np.float32)
    for j in range(dimensions, 0, -1):
        scaled = features[:, j - 1] * np.float32(1 / np.sqrt(j * (j + 1.0)) * deviation)
        elevated[:, j] = partial - np.float32(j) * scaled
        partial = partial + scaled
    elevated[:, 0] = partial
    quotient = np.rint(elevated * np.float32(1 / corners))
    remainder = elevated - quotient * np.float32(corners)
    # rank 0 has the largest remainder; of equals the first.
    rank = np.argsort(np.argsort(-remainder, axis=1, kind="stable"), axis=1) + quotient.sum(1, dtype=int)[:, None]
    wrapped = (rank < 0).astype(int) - (rank >= corners)
    rank += corners * wrapped
    base = corners * (quotient.astype(int) + wrapped)
    ordered = np.empty_like(elevated)
    np.put_along_axis(ordered, rank, (elevated - base.astype(np.float32)) * np.float32(1 / corners), axis=1)
    weights = np.empty_like(ordered)
    weights[:, 0] = ordered[:, -1] + (np.float32(1) - ordered[:, 0])
    weights[:, 1:] = (ordered[:, :-1] - ordered[:, 1:])[:, ::-1]
    k = np.arange(corners)[:, None]
    return base[:, None] + k - corners * (rank[:, None] > dimensions - k), weights


def _softmax(energy: np.ndarray) -> np.ndarray:
    proportional = np.exp(energy - energy.max(1, keepdims=True))
    return proportional / proportional.sum(1, keepdims=True)


def marginals(
    image: np.ndarray, probabilities: np.ndarray, options: CrfOptions, error: float = 0.0, seed: int = 0
) -> np.ndarray:
    """What `crf.refine` computes, float64 [H, W, C]; every message is wrong by up to `error` of it, at random.

    So errors of 1e-7 show what float32 can tell: with heavy kernels the messages are large, and a pixel that hangs
    between two labels passes on which one rounding gave it.
    """
    height, width, labels = probabilities.shape
    place = np.mgrid[:height, :width][::-1].reshape(2, -1).T.astype(np.float32)
    colour = image.reshape(-1, 3).astype(np.float32) / np.float32(options.srgb)
    gaussian = _filter_over((place / np.float32(options.sxy_gaussian)).tobytes(), 2)
    bilateral = _filter_over(np.concatenate([place / np.float32(options.sxy), colour], axis=1).tobytes(), 5)
    rng = np.random.default_rng(seed)
    unary = np.log(np.clip(probabilities.reshape(-1, labels).astype(np.float64), MIN_PROBABILITY, 1))
    field = _softmax(unary)
    weights = np.array(options.class_weights or np.ones(labels), np.float64)
    pays = np.outer(weights, weights) * (1 - np.eye(labels))
    for _ in range(options.iterations):
        filtered = options.compat_gaussian * gaussian(field) + options.compat * bilateral(field)
        messages = -filtered @ pays if options.class_weights else filtered
        field = _softmax(unary + messages * (1 + error * rng.uniform(-1, 1, messages.shape)))
    return field.reshape(probabilities.shape)
