"""Published weights by name and by address."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import cli
from tests.drawn.checkpoints import ALPHA, mobilenet_variables, write_checkpoint
from tests.drawn.places import ROOT
from tests.drawn.web import served
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.options import BACKBONES
from trainer.options import InputError
from trainer.train.options import Options
from trainer.weights import catalog
from trainer.weights.checkpoints import load_weights_from


@pytest.fixture(scope="module")
def small():
    return deeplab_v3_plus(3, alpha=ALPHA, head="bilinear")


@pytest.fixture
def fetched(archive, tmp_path, monkeypatch):
    """The catalogue of one name, "small_voc", that is on loopback."""
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    with served(archive[0]) as server:
        url = server.url.replace("weights.bin", "weights.tar.gz")
        entry = catalog.Entry("mobilenet_v2", url)
        monkeypatch.setattr(catalog, "CATALOG", {"small_voc": entry, "mobilenet_v2_imagenet": entry})
        yield url


@pytest.mark.parametrize("by", ["name", "address", "capitals", "imagenet"])
def test_weights_are_fetched_by_name_and_address(by, fetched, small, archive):
    imported = load_weights_from(
        small, {"address": fetched, "capitals": fetched.upper(), "name": "small_voc"}.get(by, by)
    )
    assert (imported.skipped, imported.unused) == ([], [])
    np.testing.assert_array_equal(small.get_layer("aspp0").get_weights()[0], archive[1]["aspp0/weights"])


def test_import_weights_takes_a_name(fetched, tmp_path, capsys):
    arguments = ["import-weights", "small_voc", "--palette", "voc", "--output", str(tmp_path / "model")]
    assert cli.main(arguments) == 2
    assert "3 classes but palette voc has 21" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["imagenet", "mobilenet_v2_imagenet"])
def test_weights_without_a_head_are_not_fetched_to_be_imported(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(catalog, "fetch", lambda *_: pytest.fail("fetched"))
    assert cli.main(["import-weights", name, "--palette", "voc", "--output", str(tmp_path / "model")]) == 2
    message = f"{name}: ImageNet weights have no head to import; give them to `deeplab train --init-from`"
    assert message in capsys.readouterr().err


def test_a_file_of_that_name_comes_before_the_published_one(fetched, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "small_voc", mobilenet_variables(5))
    assert load_weights_from(small, "small_voc").skipped == ["logits/semantic"]


def test_weights_of_another_backbone_are_not_fetched(fetched):
    with pytest.raises(InputError, match="small_voc are weights of mobilenet_v2; give --backbone mobilenet_v2"):
        catalog.locate("small_voc", "xception_65")


@pytest.mark.parametrize("name", ["EdgeTPU-DeepLab", "edgetpu-deeplab-slim"])
def test_published_weights_that_are_not_taken_are_refused_by_name(name):
    with pytest.raises(InputError, match=f"{name} are weights of MobileNet-EdgeTPU .* not supported"):
        catalog.locate(name)


ZOO = [
    "mobilenetv2_dm05_coco_voc_trainaug", "mobilenetv2_dm05_coco_voc_trainval", "mobilenetv2_coco_voc_trainaug",
    "mobilenetv2_coco_voc_trainval", "xception65_coco_voc_trainaug", "xception65_coco_voc_trainval",
    "mobilenetv2_coco_cityscapes_trainfine", "mobilenetv3_large_cityscapes_trainfine",
    "mobilenetv3_small_cityscapes_trainfine", "xception65_cityscapes_trainfine",
    "xception71_dpc_cityscapes_trainfine", "xception71_dpc_cityscapes_trainval", "edgetpu-deeplab",
    "edgetpu-deeplab-slim", "mobilenetv2_ade20k_train", "xception65_ade20k_train", "xception_41_imagenet",
    "xception_65_imagenet", "xception_65_imagenet_coco", "xception_71_imagenet", "resnet_v1_50_beta_imagenet",
    "resnet_v1_101_beta_imagenet",
]  # fmt: skip
"""Every name in the model zoo of DeepLab, as of 2020."""


def test_every_name_of_the_model_zoo_is_known():
    of_keras = {f"{name}_imagenet" for name in ("mobilenet_v2", "mobilenet_v3_large_seg", "mobilenet_v3_small_seg")}
    assert {*catalog.CATALOG, *catalog.NOT_TAKEN} == {*ZOO, *of_keras}


def test_every_backbone_has_imagenet_weights_and_every_name_a_backbone():
    assert {entry.backbone for entry in catalog.CATALOG.values()} <= set(BACKBONES)
    assert {f"{backbone}_imagenet" for backbone in BACKBONES} <= set(catalog.CATALOG)
    assert all(entry.url.startswith("https://") for entry in catalog.CATALOG.values())


def test_the_documentation_lists_every_name_with_its_backbone():
    lines = (ROOT / "docs/weights.md").read_text().splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| `")]
    names = {name.strip(" `"): backbone.strip(" `") for name, backbone in rows}
    assert names == {name: entry.backbone for name, entry in catalog.CATALOG.items()}


def test_only_flags_of_weights_take_web_addresses():
    flags = {"records": "records", "output": "model"}
    for address in ("https://host/weights.h5", "HTTP://host/weights.h5"):
        assert Options(**flags, init_from=address).init_from == address
    for wrong in ({"init_from": "s3://bucket/weights.h5"}, {"output": "https://host/model"}):
        with pytest.raises(InputError, match="expected a local path or a gs:// address"):
            Options(**flags | wrong)


def test_an_address_that_is_not_taken_is_refused_by_the_name_of_the_argument(capsys):
    assert cli.main(["import-weights", "s3://bucket/w.h5", "--palette", "voc", "--output", "model"]) == 2
    assert "error: CHECKPOINT s3://bucket/w.h5: expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("mobilenetv2_coco_voc_trainagu", "mobilenetv2_coco_voc_trainaug"),
        ("MobileNetV2_coco_voc_trainaug", "mobilenetv2_coco_voc_trainaug"),
        ("xception65-ade20k-train", "xception65_ade20k_train"),
        ("image_net", "imagenet"),
    ],
)
def test_a_name_that_is_misspelt_is_refused_with_similar_ones(name, similar):
    with pytest.raises(
        InputError, match=rf"{name} is neither a file nor a name of published weights; similar names: .*{similar}"
    ):
        catalog.locate(name, "mobilenet_v2")


def test_a_file_may_have_nearly_a_name_of_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xception65_ade20k_train.index").touch()
    (tmp_path / "xception65_ade20k_trains.index").touch()
    for name in ("xception65_ade20k_train", "xception65_ade20k_trains"):
        assert catalog.locate(name) == name
