"""The bytes of an ONNX file, and what is read of one that may be anybody's."""

from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from tests.drawn.places import ROOT
from trainer.export.onnx import load
from trainer.options import InputError

EXPORT = """
import sys
from trainer import startup
startup.start_tensorflow()
import keras
from tests.drawn.training import colour_network
from trainer.export import graph, onnx
keras.utils.set_random_seed(0)
about = {"versions": {"deeplab-pipelines": "1"}}
with startup.quiet_startup():
    data = onnx.build(graph.frozen(colour_network(3), 80), about)
sys.stdout.buffer.write(data)
"""


@pytest.mark.slow
def test_the_same_export_has_the_same_bytes_in_every_process():
    """In each, Python gives sets another order. Masks are of another model where an export has other bytes."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", EXPORT],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "4")
    ]
    first, second = [program.communicate()[0] for program in programs]
    assert first and first == second


def file(*nodes: onnx.NodeProto, domains: tuple[str, ...] = ("",)) -> bytes:
    """An ONNX file whose nodes give y, float32 [4]."""
    graph = helper.make_graph(list(nodes), "graph", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])])
    opsets = [helper.make_opsetid(domain, 17) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def external(location: str) -> TensorProto:
    """An array that is in another file."""
    array = TensorProto(name="a", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    array.external_data.add(key="location", value=location)
    return array


def constant(array: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], value=array)


def in_a_branch(array: TensorProto) -> onnx.NodeProto:
    branch = helper.make_graph([constant(array)], "branch", [], [helper.make_tensor_value_info("y", 1, [4])])
    return helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize("node", [constant, in_a_branch])
@pytest.mark.parametrize("location", ["secret.bin", "/etc/hostname", "../secret.bin"])
def test_no_file_that_an_export_names_is_read(node, location):
    with pytest.raises(InputError, match=f"its arrays are in other files, such as '{location}'"):
        load(file(node(external(location))))


def test_external_initial_values_are_refused():
    model = onnx.load_from_string(file(helper.make_node("Identity", ["a"], ["y"])))
    model.graph.initializer.append(external("secret.bin"))
    with pytest.raises(InputError, match="its arrays are in other files"):
        load(model.SerializeToString())


def test_operations_of_others_are_refused():
    node = helper.make_node("PyFunction", [], ["y"], domain="org.others")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot use the file: .*PyFunction|org\.others"):
        load(file(node, domains=("", "org.others")))


def test_onnx_runtime_reports_nothing_to_its_makers(tmp_path):
    """For that it keeps files in these folders."""
    program = "from trainer.export import onnx\ntry: onnx.load(b'')\nexcept onnx.InputError: pass"
    folders = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | folders
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused():
    with pytest.raises(InputError, match="ONNX Runtime cannot use the file"):
        load(b"no protobuf")


@pytest.mark.parametrize(("asked", "bound", "expected"), [(0, 3, 3), (2, 3, 2), (0, 64, 0), (2, 64, 2)])
def test_onnx_runtime_has_the_cores_that_this_process_may_use(monkeypatch, asked, bound, expected):
    """By itself it counts those of the machine; 0 leaves it to bind its threads to them, where all may be used."""
    given = []
    monkeypatch.setattr("trainer.export.onnx.cores", lambda: bound)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda _, options, **more: given.append(options))
    load(file(), asked)
    assert given[0].intra_op_num_threads == expected
