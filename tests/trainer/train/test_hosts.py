"""Several hosts that train one model: what each of them gets, and when they are refused."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import signal

import numpy as np
import pytest

from trainer import storage
from trainer.formats.dataset import load_dataset
from trainer.options import InputError
from trainer.storage import Unavailable
from trainer.train import hosts, resume
from trainer.train.interrupts import HungUp, Interrupts, Terminated
from trainer.train.options import Options
from trainer.train.streams import TrainingStream

OPTIONS = Options(records="records", output="model", batch_size=4, crop=64)
TWO = dataclasses.replace(OPTIONS, hosts=2, coordinator="127.0.0.1:1")


def test_the_parts_of_all_hosts_are_the_batches_of_one(records):
    dataset = load_dataset(records)

    def batches(options: Options) -> list:
        return list(TrainingStream(records, dataset, options).epoch(2, 3, 1).as_numpy_iterator())

    parts = zip(*(batches(dataclasses.replace(TWO, host_id=host)) for host in (0, 1)), strict=True)
    whole = batches(OPTIONS)
    assert len(whole) == 2
    for batch, (first, second) in zip(whole, parts, strict=True):
        for expected, *halves in zip(batch, first, second, strict=True):
            assert len(halves[0]) == 2
            np.testing.assert_array_equal(np.concatenate(halves), expected)


def test_under_tensorflow_several_hosts_are_refused_with_the_cure():
    refused = pytest.raises(InputError, match=r"--hosts 2 needs JAX, found tensorflow; set KERAS_BACKEND=jax")
    with refused, hosts.joined(TWO):
        pass


def test_a_single_host_needs_no_connection_and_agrees_with_itself():
    with hosts.joined(OPTIONS) as joined:
        assert joined is OPTIONS
    hosts.check_same(resume.Progress({}, ""), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"options": {"crop": 96, "hosts": 2}},
            "host 1 has --crop 96, but host 0 has --crop 64; give all hosts",
        ),
        ({"options": {"hosts": 2}}, "host 1 has --crop unknown, but host 0 has --crop 64"),
        ({"options": {"crop": 64, "hosts": 4}}, "host 1 has --hosts 4, but host 0 has --hosts 2"),
        ({"data_fingerprint": "b"}, "host 1 has records b, but host 0 has records a"),
        ({"step": 3}, "host 1 has finished steps 3, but host 0 has finished steps 0"),
        ({"classes": ("sky", "road")}, r"host 1 has classes \['sky', 'road'\], but host 0 has classes \[\]"),
        ({"options": {"crop": 64, "hosts": 2, "output": "other", "host_id": 1}}, None),
    ],
)
def test_a_host_that_would_train_otherwise_than_host_0_says_in_what(changes, message, monkeypatch):
    first = resume.Progress({"crop": 64, "hosts": 2, "output": "model", "host_id": 0}, "a")
    sent = []
    monkeypatch.setattr(hosts, "of_first", lambda array, _: sent.append(array) or array)
    hosts.check_same(first, TWO)
    monkeypatch.setattr(hosts, "of_first", lambda array, _: sent.pop(0))
    refused = pytest.raises(InputError, match=message) if message else contextlib.nullcontext()
    with refused:
        hosts.check_same(dataclasses.replace(first, **changes), dataclasses.replace(TWO, host_id=1))


@pytest.mark.parametrize("package", ["keras", "jax"])
def test_a_host_with_another_version_than_host_0_is_refused(package, monkeypatch):
    progress, sent = resume.Progress({}, "a"), []
    monkeypatch.setattr(hosts, "of_first", lambda array, _: sent.append(array) or array)
    monkeypatch.setattr(hosts, "_version", lambda name: "9.0" if name == package else "1.0")
    hosts.check_same(progress, TWO)
    monkeypatch.setattr(hosts, "of_first", lambda array, _: sent.pop(0))
    monkeypatch.setattr(hosts, "_version", lambda name: "1.0")
    with pytest.raises(InputError, match=r"host 1 has \w+ 1\.0, but host 0 has \w+ 9\.0; give all hosts the same"):
        hosts.check_same(progress, dataclasses.replace(TWO, host_id=1))


@pytest.mark.parametrize(
    ("error", "ends_with", "message", "status"),
    [
        (
            RuntimeError("UNKNOWN: Gloo all-reduce failed: reset\nby"),
            Unavailable,
            "host 1 of 2 waited for another",
            75,
        ),
        (RuntimeError("of another kind"), RuntimeError, "of another kind", 1),
        (InputError("no such records"), InputError, "no such records", 2),
        (Terminated("step 3 is kept"), Terminated, "step 3 is kept", 143),
        (HungUp("step 3 is kept"), HungUp, "step 3 is kept", 129),
    ],
)
def test_a_host_that_fails_ends_without_the_others(error, ends_with, message, status, tmp_path, monkeypatch):
    registered = []
    monkeypatch.setattr(hosts.keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(hosts.keras.distribution, "initialize", lambda *_: None)
    monkeypatch.setattr(hosts.atexit, "register", lambda *arguments: registered.append(arguments))
    options = dataclasses.replace(TWO, host_id=1, output=str(tmp_path))
    with pytest.raises(ends_with, match=message), hosts.joined(options) as joined:
        assert joined.output != options.output
        raise error
    assert (hosts._end, status) in registered


def test_sigterm_ends_a_host_though_jax_listens_to_it_too(monkeypatch):
    """JAX takes the signal for itself in C, of which Python knows nothing; without a word to anybody it is lost."""
    ignore = lambda *_: ctypes.CDLL(None).signal(signal.SIGTERM, 1)
    monkeypatch.setattr(hosts.keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(hosts.keras.distribution, "initialize", ignore)
    monkeypatch.setattr(hosts.atexit, "register", lambda *_: None)
    with pytest.raises(Terminated), Interrupts(), hosts.joined(TWO):
        signal.raise_signal(signal.SIGTERM)


def test_a_host_that_finishes_waits_for_the_others_as_jax_does(monkeypatch):
    monkeypatch.setattr(hosts.keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(hosts.keras.distribution, "initialize", lambda *_: None)
    monkeypatch.setattr(hosts.atexit, "register", pytest.fail)
    with hosts.joined(TWO) as joined:
        assert joined == TWO


def test_another_host_resumes_from_a_copy_of_the_checkpoint(tmp_path):
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    resume.copy(source, target)
    assert not (tmp_path / "target").exists()
    for name in ("state.json", "epoch-0002.npz", "other.txt"):
        storage.write(storage.join(source, "checkpoints", name), name.encode())
    resume.copy(source, target)
    found = {path.name: path.read_bytes() for path in (tmp_path / "target" / "checkpoints").iterdir()}
    assert found == {"state.json": b"state.json", "epoch-0002.npz": b"epoch-0002.npz"}
