"""What passes standard error while TensorFlow starts: everything but its known start-up lines."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest

from trainer.options import InputError
from trainer.startup import check_backend, importing, keras_backend, quiet_startup, start_tensorflow

START_UP = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795692970.610190   32613 port.cc:153] oneDNN custom operations are on. You may see ...",
    "I0000 00:00:1795692970.610696   32613 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU ...",
    "2026-01-02 03:04:05.678901: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.",
    "To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild TensorFlow with ...",
    "E0000 00:00:1795692974.296784   32613 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed "
    "call to cuInit: UNKNOWN ERROR (303)",
    "E0000 00:00:1795692977.842231   32613 util.cc:131] oneDNN supports DT_UINT8 only on platforms with AVX-512. ...",
    "E0000 00:00:1795692977.842231   32613 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register "
    "factory for plugin cuDNN when one has already been registered",
    "W0000 00:00:1795692977.842231   32613 computation_placer.cc:177] computation placer already registered. ...",
)
WORTH_READING = (
    "W0000 00:00:1795692977.842231   32613 gpu_device.cc:2341] Cannot dlopen some GPU libraries. ...",
    "E0000 00:00:1795692974.296784   32613 cuda_platform.cc:52] failed call to cuInit: CUDA_ERROR_NOT_READY (802)",
    "F0000 00:00:1795692974.296784   32613 tensor.cc:1] Check failed: a == b",
    "terminate called after throwing an instance of 'std::bad_alloc'",
)


@pytest.fixture(autouse=True)
def level(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")


def write(text: str) -> None:
    """Writes a line as C++ does: past Python, to the descriptor."""
    os.write(2, f"{text}\n".encode())


@pytest.mark.parametrize("is_enabled", [True, False])
def test_python_looks_for_no_garbage_among_what_imports_make(is_enabled):
    before = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    gc.unfreeze()
    try:
        with importing():
            assert not gc.isenabled()
            made = [[] for _ in range(100_000)]
        assert gc.isenabled() == is_enabled and gc.get_freeze_count() > len(made)
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("line", START_UP)
def test_a_known_start_up_line_is_dropped(capfd, line):
    with quiet_startup():
        write(line)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("line", WORTH_READING)
def test_any_other_line_gets_through(capfd, line):
    with quiet_startup():
        write(START_UP[1])
        write(line)
        write(START_UP[2])
    assert capfd.readouterr().err == line + "\n"


def test_a_line_without_an_end_and_bytes_that_are_no_text_get_through(capfdbinary):
    with quiet_startup():
        os.write(2, b"\xff\xfe\n12 %")
    assert capfdbinary.readouterr().err == b"\xff\xfe\n12 %"


def test_standard_error_is_as_before_afterwards(capfd):
    with quiet_startup():
        write(START_UP[0])
    write(START_UP[0])
    assert capfd.readouterr().err == START_UP[0] + "\n"


def test_output_of_a_block_that_raises_gets_through(capfd):
    with pytest.raises(RuntimeError, match="no model"), quiet_startup():
        write("the reason")
        raise RuntimeError("no model")
    assert capfd.readouterr().err == "the reason\n"


def test_blocks_inside_one_another_end_with_the_outermost(capfd):
    with quiet_startup():
        with quiet_startup():
            write("inner")
            write(START_UP[0])
        write(START_UP[1])
        write("outer")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "inner\nouter\n"


def test_output_of_other_threads_is_delayed_and_not_lost(capfd):
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with quiet_startup():
            write("of the block in the other thread")
            inside.set()
            leave.wait(60)
            write("later")

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    with quiet_startup():
        write(START_UP[0])
        write("of this block")
    assert capfd.readouterr().err == ""
    leave.set()
    thread.join()
    assert capfd.readouterr().err == "of the block in the other thread\nof this block\nlater\n"


def test_an_explicit_level_of_0_shows_everything(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with quiet_startup():
        write(START_UP[0])
        assert capfd.readouterr().err == START_UP[0] + "\n"


def run(program: str, **streams: int) -> subprocess.CompletedProcess:
    code = f"import os, sys, warnings\nfrom trainer.startup import quiet_startup, start_tensorflow\n{program}"
    return subprocess.run([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, **streams)


def test_warnings_prints_and_tracebacks_of_python_get_through():
    done = run(
        "with quiet_startup():\n"
        "    warnings.warn('of age')\n"
        "    print('printed', file=sys.stderr)\n"
        f"    os.write(2, {START_UP[0]!r}.encode() + b'\\n')\n"
        "    raise ValueError('in the block')",
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "UserWarning: of age" in lines[0] and "printed" in lines
    assert lines[-1] == "ValueError: in the block" and START_UP[0] not in lines


def test_a_closed_standard_error_is_no_error():
    assert run("os.close(2)\nwith quiet_startup():\n    print('ran')\nos._exit(0)").stdout == "ran\n"


def test_tensorflow_starts_without_a_word_and_once_for_all():
    program = (
        "start_tensorflow()\n"
        "import tensorflow as tf\n"
        "tf.function(tf.transpose, autograph=False)(tf.zeros([3, 4], tf.uint8))\n"
        "print(len(list(tf.data.Dataset.range(3).map(tf.negative))))"
    )
    done = run(program, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_the_module_loads_nothing_but_the_standard_library():
    program = "print([name for name in ('numpy', 'tensorflow', 'keras', 'absl') if name in sys.modules])"
    assert run(program).stdout == "[]\n"


@pytest.mark.parametrize(("backend", "hidden"), [("jax", [([], "GPU")]), ("tensorflow", [])])
def test_tensorflow_leaves_gpus_to_the_framework_that_trains(backend, hidden, monkeypatch):
    import tensorflow as tf

    calls = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: calls.append(given))
    monkeypatch.setenv("KERAS_BACKEND", backend)
    start_tensorflow()
    assert calls == hidden


@pytest.mark.parametrize(
    ("environment", "settings", "expected"),
    [
        ("jax", '{"backend": "tensorflow"}', "jax"),
        (None, '{"backend": "jax"}', "jax"),
        ("", '{"backend": "jax"}', "jax"),
        (None, '{"epsilon": 1e-7}', "tensorflow"),
        (None, "[", "tensorflow"),
        (None, None, "tensorflow"),
    ],
)
def test_the_backend_is_the_one_that_keras_will_have(environment, settings, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if environment is not None:
        monkeypatch.setenv("KERAS_BACKEND", environment)
    if settings:
        (tmp_path / "keras.json").write_text(settings)
    assert keras_backend() == expected


@pytest.mark.parametrize("told", ["KERAS_BACKEND", "keras.json"])
@pytest.mark.parametrize(
    ("backend", "message"),
    [("tensrflow", "is 'tensrflow'; expected one of tensorflow, jax, torch"), ("torch", "is torch, which is not")],
)
def test_a_backend_that_is_not_there_is_named_with_who_asks_for_it(told, backend, message, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", backend if told == "KERAS_BACKEND" else "")
    (tmp_path / "keras.json").write_text(f'{{"backend": "{backend}"}}')
    with pytest.raises(InputError, match=f"{told}.* {message}"):
        check_backend()
