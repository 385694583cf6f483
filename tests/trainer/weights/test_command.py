"""`deeplab import-weights` as a user runs it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from pipelines import cli
from tests.drawn.checkpoints import ALPHA, mobilenet_variables, write_checkpoint
from tests.drawn.web import served
from trainer import storage
from trainer.formats.cards import load_card, save_card
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.folder import load_model
from trainer.weights.checkpoints import load_weights_from


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The path of a MobileNetV2 checkpoint of 3 classes."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    write_checkpoint(path, mobilenet_variables(3))
    return str(path)


@pytest.fixture
def palette(tmp_path):
    path = tmp_path / "three.json"
    path.write_text('{"name": "three", "classes": [{"name": "a", "color": [0, 0, 0]}, '
                    '{"name": "b", "color": [0, 0, 9]}, {"name": "c", "color": [0, 9, 0]}]}')  # fmt: skip
    return str(path)


def test_import_weights_writes_a_model_folder(small, palette, tmp_path, capsys):
    output = str(tmp_path / "model")
    arguments = ["import-weights", small, "--palette", palette, "--output", output, "--max-side", "65"]
    assert cli.main(arguments) == 0
    assert "), all of the model" in capsys.readouterr().out
    model, card = load_model(output)
    assert (card.max_side, card.palette.names) == (65, ("a", "b", "c"))
    assert card.architecture["alpha"] == ALPHA
    expected = deeplab_v3_plus(3, alpha=ALPHA, head="bilinear")
    load_weights_from(expected, small)
    image = np.random.default_rng(0).integers(0, 256, (1, 33, 33, 3)).astype("uint8")
    np.testing.assert_array_equal(ops.convert_to_numpy(model(image)), ops.convert_to_numpy(expected(image)))


def test_an_imported_subpixel_head_starts_as_the_bilinear_one_of_today(small, palette, tmp_path):
    output = str(tmp_path / "model")
    assert cli.main(["import-weights", small, "--palette", palette, "--output", output, "--head", "subpixel"]) == 0
    model, card = load_model(output)
    assert card.architecture["subpixel_start"] == model.get_layer("logits-semantic").start == "bilinear"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("classes", "3 classes but palette camvid has 11"),
        ("missing", "index is missing"),
        ("text", "cannot be read as a TensorFlow checkpoint"),
        ("foreign", "not a DeepLab checkpoint of a known kind"),
    ],
)
def test_import_weights_refuses_what_it_cannot_use(case, message, small, tmp_path, capsys):
    path = tmp_path / "model.ckpt"
    if case == "text":
        Path(f"{path}.index").write_text("not a checkpoint")
    elif case == "foreign":
        write_checkpoint(path, {"generator/weights": [3, 3]})
    checkpoint = small if case == "classes" else str(path)
    output = tmp_path / "model"
    status = cli.main(["import-weights", checkpoint, "--palette", "camvid", "--output", str(output)])
    text = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in text
    assert message in text
    assert not output.exists()


def test_another_model_in_the_output_folder_is_replaced_only_with_overwrite(small, palette, tmp_path, capsys):
    output = tmp_path / "model"
    arguments = ["import-weights", small, "--palette", palette, "--output", str(output)]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 0, "the same import may be done again"
    before = (output / "model.json").read_bytes()
    assert cli.main([*arguments, "--max-side", "65"]) == 2
    message = capsys.readouterr().err
    found = "model.keras and model.json, imported with other options: --max-side was 513, is 65"
    assert f"holds another model ({found}); give another" in message and "--overwrite" in message
    assert (output / "model.json").read_bytes() == before
    (output / "model.json").unlink()
    (output / "model.keras").write_bytes(b"of another program")
    assert cli.main(arguments) == 2
    assert "holds another model (model.keras); give another" in capsys.readouterr().err
    assert (output / "model.keras").read_bytes() == b"of another program"
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert load_model(str(output))[1].max_side == 513


def test_every_option_that_differs_from_those_of_the_model_in_the_output_is_named(small, palette, tmp_path, capsys):
    flags = ["--palette", palette, "--output", str(tmp_path / "model")]
    assert cli.main(["import-weights", small, *flags]) == 0
    same = f"{Path(small).parent}/../{Path(small).parent.name}/model.ckpt"
    assert cli.main(["import-weights", same, *flags, "--output-stride", "8", "--head", "subpixel"]) == 2
    differences = f"CHECKPOINT was {small}, is {same}; --head was bilinear, is subpixel; --output-stride was 16, is 8"
    assert f"imported with other options: {differences})" in capsys.readouterr().err


def test_the_signature_of_an_address_is_neither_printed_nor_stored(small, palette, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    archive, output = io.BytesIO(), tmp_path / "model"
    with tarfile.open(fileobj=archive, mode="w:gz") as members:
        for part in Path(small).parent.glob("model.ckpt.*"):
            members.add(part, part.name)
    with served(archive.getvalue()) as server:
        address = server.url.replace("weights.bin", "weights.tar.gz")
        flags = ["--palette", palette, "--output", str(output)]
        assert cli.main(["import-weights", f"{address}?Signature=S3cret1", *flags]) == 0
        said = capsys.readouterr()
        assert f"{address}: " in said.out and "S3cret" not in said.out + said.err
        card = load_card(str(output))
        assert card.training["imported"]["checkpoint"] == address
        card.training["imported"]["checkpoint"] += "?Signature=S3cret1"  # as up to version 0.29
        save_card(str(output), card)
        assert cli.main(["import-weights", f"{address}?Signature=S3cret2", *flags]) == 0, "it is the same import"
        assert "S3cret" not in (output / "model.json").read_text()


def test_a_training_in_the_output_folder_is_kept_from_going_on_over_the_imported_weights(
    small, palette, tmp_path, capsys
):
    output = tmp_path / "model"
    storage.write_json(str(output / "checkpoints/state.json"), {"history": []})
    arguments = ["import-weights", small, "--palette", palette, "--output", str(output)]
    for more in ([], ["--overwrite"]):
        assert cli.main([*arguments, *more]) == 2
        assert f"delete {output}/checkpoints/state.json first" in capsys.readouterr().err
    assert not (output / "model.json").exists()


def test_the_same_import_may_be_done_again_into_a_folder_that_was_moved(small, palette, tmp_path):
    arguments = ["import-weights", small, "--palette", palette, "--output"]
    assert cli.main([*arguments, str(tmp_path / "model")]) == 0
    (tmp_path / "model").rename(tmp_path / "moved")
    assert cli.main([*arguments, f"{tmp_path}/./moved"]) == 0
    card = load_card(str(tmp_path / "moved"))
    card.training["imported"]["output"] = str(tmp_path / "model")  # as up to version 0.34
    save_card(str(tmp_path / "moved"), card)
    assert cli.main([*arguments, str(tmp_path / "moved")]) == 0


@pytest.mark.parametrize("name", ["model.keras", "model.json"])
def test_a_folder_in_the_place_of_a_file_leaves_the_other_file_as_it_was(name, small, palette, tmp_path, capsys):
    (tmp_path / "model" / name).mkdir(parents=True)
    arguments = ["import-weights", small, "--palette", palette, "--output", str(tmp_path / "model"), "--overwrite"]
    assert cli.main(arguments) == 2
    assert f"{name} is a folder, where a file is to be written; move it away" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "model").iterdir()] == [name]


def test_weights_are_not_imported_into_a_folder_of_records(small, palette, tmp_path, capsys):
    (tmp_path / "dataset.json").write_text("{}")
    assert cli.main(["import-weights", small, "--palette", palette, "--output", str(tmp_path), "--overwrite"]) == 2
    assert "is a folder of records; give the model a folder of its own" in capsys.readouterr().err


def test_an_import_that_was_killed_between_its_files_may_be_done_again(small, palette, tmp_path, monkeypatch):
    arguments = ["import-weights", small, "--palette", palette, "--output", str(tmp_path / "model")]
    write = storage.write

    def killed(path, data):
        if path.endswith("model.keras"):
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", killed)
        assert cli.main(arguments) == 130
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.json"]
    assert cli.main(arguments) == 0
    load_model(str(tmp_path / "model"))


def test_a_negative_side_is_refused(small, tmp_path, capsys):
    flags = ["--palette", "camvid", "--output", str(tmp_path / "model"), "--max-side", "-1"]
    assert cli.main(["import-weights", small, *flags]) == 2
    assert "--max-side must be 0 to 178956970, got -1" in capsys.readouterr().err


def test_help_shows_the_checkpoint_as_an_argument_and_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["import-weights", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: deeplab import-weights CHECKPOINT --output DIR --palette NAME|FILE [OPTIONS]")
    assert text.count("  deeplab import-weights ") == 3
    assert "CHECKPOINT is the common prefix of `model.ckpt.index`" in text
