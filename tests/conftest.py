from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from benchmarks.objects import served
from trainer.files import cloud
from trainer.startup import importing

# By default, a twentieth of the suite's time goes into looking for garbage among the objects of TensorFlow.
gc.set_threshold(20_000, 20, 20)
# A shell without job control starts what is to run in the background with Ctrl-C ignored, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# `nohup` starts them with SIGHUP ignored, and tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Imports TensorFlow, with the modules of tests."""
    with importing():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Networks get the same weights in every run: some random ones see one class everywhere, and can show nothing.

    A hook, since fixtures of modules, which build networks too, run before every fixture of a test.
    """
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """The address of a Cloud Storage emulator with the bucket seg."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["--host=127.0.0.1", f"--port={port}", "--default-bucket=seg", "--in-memory", "-q"]
    program = os.path.join(os.path.dirname(sys.executable), "gcp-storage-emulator")
    server = subprocess.Popen([program, "start", *command], cwd=tmp_path_factory.mktemp("emulator"))
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "the storage emulator did not start"
    yield address
    server.terminate()
    server.wait(10)


@pytest.fixture
def server(monkeypatch):
    """Cloud Storage as `benchmarks.objects` plays it: it counts requests, can be slow, and holds to conditions."""
    with served() as objects:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", objects.address)
        cloud.client.cache_clear()
        yield objects
    cloud.client.cache_clear()


@pytest.fixture(scope="module")
def bucket(emulator):
    """An empty bucket of a Cloud Storage emulator, as gs://seg."""
    urllib.request.urlopen(f"{emulator}/wipe?keep-buckets=true", timeout=10).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", emulator)
        cloud.client.cache_clear()
        yield "gs://seg"
    cloud.client.cache_clear()
