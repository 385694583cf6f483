"""The dense CRF: sharper masks by either engine, and pools that end cleanly. Exactness: see test_engine.py."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from pipelines.crf import refine as crf
from pipelines.crf.engine import builds
from trainer.formats.options import CrfOptions
from trainer.options import InputError

needs_pydensecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None,
    reason="pydensecrf2 is not installed (there is none for Python 3.13)",
)


@pytest.fixture(params=["native", pytest.param("pydensecrf", marks=needs_pydensecrf)])
def engine(request):
    return request.param


def noisy_disc(size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright disc on dark ground; image uint8, truth uint8 [H, W], blurred and speckled softmax [H, W, 2]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    truth = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2).astype(np.uint8)
    image = np.where(truth[..., None] == 1, 200, 60) + rng.integers(-3, 4, (size, size, 3))
    logit = 1.2 * (2.0 * truth - 1) + rng.normal(0, 1.5, (size, size))
    foreground = 1 / (1 + np.exp(-logit))
    return image.astype(np.uint8), truth, np.stack([1 - foreground, foreground], -1).astype(np.float32)


def test_refined_mask_is_nearer_to_the_truth(engine):
    image, truth, probabilities = noisy_disc()
    before = (probabilities.argmax(-1) == truth).mean()
    after = (crf.refine(image, probabilities, CrfOptions(), engine).argmax(-1) == truth).mean()
    assert before < 0.9
    assert after > 0.99


@needs_pydensecrf
def test_equals_direct_use_of_pydensecrf():
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (20, 31, 3), np.uint8)
    probabilities = rng.dirichlet(np.ones(4), (20, 31)).astype(np.float32)
    field = DenseCRF2D(31, 20, 4)
    field.setUnaryEnergy(unary_from_softmax(np.ascontiguousarray(probabilities.transpose(2, 0, 1))))
    field.addPairwiseGaussian(sxy=2, compat=1.5)
    field.addPairwiseBilateral(sxy=20, srgb=7, rgbim=image, compat=6)
    expected = np.array(field.inference(3)).reshape(4, 20, 31).transpose(1, 2, 0)
    options = CrfOptions(iterations=3, sxy_gaussian=2, compat_gaussian=1.5, sxy=20, srgb=7, compat=6)
    np.testing.assert_array_equal(crf.refine(image, probabilities, options, "pydensecrf"), expected)
    np.testing.assert_allclose(crf.refine(image, probabilities, options), expected, atol=1e-4)


def test_result_is_a_contiguous_softmax_and_inputs_stay_as_they_were(engine):
    image, _, probabilities = noisy_disc(17)
    image.flags.writeable = probabilities.flags.writeable = False
    copies = image.copy(), probabilities.copy()
    refined = crf.refine(image, probabilities, CrfOptions(), engine)
    assert refined.dtype == np.float32 and refined.shape == (17, 17, 2) and refined.flags.c_contiguous
    np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(probabilities, copies[1])


def test_strided_views_give_the_same_as_copies(engine):
    image, _, probabilities = noisy_disc(32)
    half, odd = image[::2, 1::2], probabilities[::2, 1::2]
    options = CrfOptions()
    expected = crf.refine(half.copy(), odd.copy(), options, engine)
    np.testing.assert_array_equal(crf.refine(half, odd, options, engine), expected)


def test_without_kernels_the_softmax_is_unchanged(engine):
    image, _, probabilities = noisy_disc(16)
    refined = crf.refine(image, probabilities, CrfOptions(compat=0, compat_gaussian=0), engine)
    np.testing.assert_allclose(refined, probabilities, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (5, 7, 1), (1, 9, 2), (9, 1, 2)])
def test_smallest_images_and_a_single_label(shape, engine):
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(shape[2]), shape[:2]).astype(np.float32)
    image = rng.integers(0, 256, (*shape[:2], 3), np.uint8)
    refined = crf.refine(image, probabilities, CrfOptions(), engine)
    assert refined.shape == shape
    np.testing.assert_allclose(refined.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, p: (i.astype(np.float32), p), "uint8"),
        (lambda i, p: (i[..., 0], p), "image must be"),
        (lambda i, p: (i, p[..., 0]), "probabilities must be"),
        (lambda i, p: (i, (p * 255).astype(np.uint8)), "probabilities must be"),
        (lambda i, p: (i, p[:-1]), "same pixels"),
        (lambda i, p: (i[:0], p[:0]), "same pixels"),
        (lambda i, p: (i, np.where(p > 0.9, np.nan, p)), "NaN"),
        (lambda i, p: (i, np.log(p)), r"\[0, 1\]"),
    ],
)
def test_wrong_arrays_are_refused(change, message, engine):
    image, _, probabilities = noisy_disc(16)
    with pytest.raises(ValueError, match=message):
        crf.refine(*change(image, probabilities), CrfOptions(), engine)


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"sxy": 0.0}, {"srgb": -1.0}, {"compat": -1.0}, {"sxy_gaussian": float("nan")}]
)
def test_options_refuse_nonsense(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        CrfOptions(**wrong)


@pytest.mark.parametrize(
    ("engine", "module", "cure"),
    [
        ("native", "pipelines.crf.engine.baseline", "install a C.. compiler .* and install the package again"),
        ("pydensecrf", "pydensecrf.densecrf", "pip install pydensecrf2"),
    ],
)
def test_missing_engine_says_how_to_install_it(engine, module, cure, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    builds.load.cache_clear()
    image, _, probabilities = noisy_disc(8)
    with pytest.raises(InputError, match=cure):
        crf.refine(image, probabilities, CrfOptions(), engine)
    with pytest.raises(InputError, match=cure):
        crf.Refiner(1, CrfOptions(), engine)


def test_the_native_engine_needs_no_pydensecrf(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    image, truth, probabilities = noisy_disc()
    assert (crf.refine(image, probabilities, CrfOptions()).argmax(-1) == truth).mean() > 0.99


def test_a_build_that_is_missing_leaves_the_others(monkeypatch):
    found = [build.__name__ for build in builds.builds()]
    monkeypatch.setitem(sys.modules, found[0], None)
    if found[1:]:
        assert [build.__name__ for build in builds.builds()] == found[1:]
    else:
        with pytest.raises(ImportError):
            builds.builds()


@needs_pydensecrf
def test_the_pool_gives_the_same_result_and_a_killed_worker_raises():
    image, _, probabilities = noisy_disc()
    options = CrfOptions()
    pool = crf.Refiner(1, options, "pydensecrf")
    try:
        refined, seconds = pool.submit(image, probabilities).result(60)
        np.testing.assert_array_equal(refined, crf.refine(image, probabilities, options, "pydensecrf"))
        assert 0 < seconds < 10
        (worker,) = pool._pool._processes
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            for _ in range(100):
                pool.submit(image, probabilities).result(60)
    finally:
        pool.close()


@needs_pydensecrf
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import time
        import numpy as np
        from pipelines.crf import refine as crf
        from trainer.formats.options import CrfOptions

        if __name__ == "__main__":
            pool = crf.Refiner(1, CrfOptions(), "pydensecrf")
            pool.submit(np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 2), 0.5, np.float32)).result()
            print(*pool._pool._processes, flush=True)
            time.sleep(60)
        """)
    )
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while _alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that ended but is not yet collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
