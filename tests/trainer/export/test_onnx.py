"""What is read of an ONNX file that may be anybody's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trainer.export.onnx import load
from trainer.options import InputError


def file(*nodes: onnx.NodeProto, domains: tuple[str, ...] = ("",)) -> bytes:
    """An ONNX file whose nodes give y, float32 [4]."""
    graph = helper.make_graph(list(nodes), "graph", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])])
    opsets = [helper.make_opsetid(domain, 17) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_no_file_that_an_export_names_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.ones(4, np.float32).tofile("secret.bin")
    array = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    array.external_data.add(key="location", value="secret.bin")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot use the file: .*External data"):
        load(file(helper.make_node("Constant", [], ["y"], value=array)))


def test_operations_of_others_are_refused():
    node = helper.make_node("PyFunction", [], ["y"], domain="org.others")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot use the file: .*PyFunction|org\.others"):
        load(file(node, domains=("", "org.others")))


def test_damaged_files_are_refused():
    with pytest.raises(InputError, match="ONNX Runtime cannot use the file"):
        load(b"no protobuf")
