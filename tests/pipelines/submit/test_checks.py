"""What would fail an hour later is said before anything is sent, all of it at once."""

from __future__ import annotations

import pytest

from pipelines import __version__
from tests.drawn.submitting import problems, submit, upload_records
from trainer import storage


@pytest.fixture(scope="module")
def place(bucket, tmp_path_factory):
    """gs:// folder with records, two half-made sets of them, a model folder and a photo."""
    place = f"{bucket}/submit"
    upload_records(tmp_path_factory.mktemp("records"), f"{place}/records")
    upload_records(tmp_path_factory.mktemp("cut"), f"{place}/cut")
    storage.remove(f"{place}/cut/train-00001-of-00002.tfrecord")
    storage.write(f"{place}/cut/val-00000-of-00001.tfrecord", b"short")
    storage.write(f"{place}/model/model.json", b"{}")
    storage.write(f"{place}/odd/model.json", b"{}")
    storage.write(f"{place}/odd/crf.json", b"none")
    storage.write(f"{place}/served/saved_model.pb", b"")
    storage.write(f"{place}/photos/a.jpg", b"")
    storage.write(f"{place}/voc/model.ckpt.index", b"")
    return place


VERTEX = ["--region", "europe-west4", "--machine-type", "g2-standard-8"]


@pytest.mark.parametrize(
    "command",
    [
        "train --records {0}/records --output {0}/new",
        "train --records {0}/records --output {0}/new --init-from imagenet",
        "train --records {0}/records --output {0}/new --init-from mobilenetv2_coco_voc_trainaug",
        "train --records {0}/records --output {0}/new --init-from https://example.org/model.tar.gz",
        "train --records {0}/records --output {0}/new --init-from {0}/voc/model.ckpt",
        "segment --input {0}/photos --model {0}/model --output {0}/masks --direct_num_workers=4",
        "segment --input {0}/photos/*.jpg --model {0}/served --output {0}/masks",
        "tune-crf --model {0}/model --records {0}/records",
        "tune-crf --model {0}/model --records {0}/records --output {0}/new.json",
    ],
)
def test_valid_commands_have_no_problems(place, command):
    assert problems("kubernetes", command=command.format(place)) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train --records {0}/cut --output {0}/new", "2 of 3 shards are missing or of another size than dataset.json"),
        ("train --records {0}/photos --output {0}/new", "{0}/photos holds no records: dataset.json is missing"),
        ("train --records {0}/records --output {0}/new --init-from {0}/lost", "--init-from {0}/lost does not exist"),
        ("train --records {0}/records --output {0}/new --init-from s3://b/m", "s3:// is not supported"),
        (
            "train --records {0}/records --output {0}/new --epochs 0",
            "deeplab train: --epochs must be 1 to 1000000, got 0",
        ),
        ("train --records {0}/records", "deeplab train: the following arguments are required: --output"),
        ("train --records {0}/records --output {0}/model", "{0}/model holds model.json, but no training to resume"),
        ("prepare --input {0}/set --output {0}/new", "prepare is not a command for machines with GPUs"),
        ("segment --input {0}/lost --model {0}/model --output {0}/masks", "--input {0}/lost does not exist"),
        ("segment --input {0}/x/*.jpg --model {0}/model --output {0}/masks", "--input {0}/x/*.jpg does not exist"),
        ("segment --input {0}/photos --model {0}/photos --output {0}/masks", "{0}/photos holds no model: model.json"),
        (
            "segment --input {0}/photos --model {0}/a.onnx --output {0}/masks",
            "{0}/a.onnx would run on the machine's proc",
        ),
        (
            "segment --input {0}/photos --model {0}/model --output {0}/m --runner=Spark",
            "does not know --runner; of Beam",
        ),
        ("train --records {0}/records --output {0}/new --host-id=0", "--host-id: these are set for each host"),
        ("tune-crf --model {0}/served --records {0}/records", "{0}/served holds no model: model.json is missing"),
        ("tune-crf --model {0}/model --records {0}/records --split test", "no split test; it has train, val"),
        (
            "train --records {0}/records --output gs://none/new",
            "--output gs://none/new: there is no such bucket; make",
        ),
        (
            "segment --input {0}/photos --model {0}/model --output {0}/m --crf auto",
            "--crf auto: {0}/model/crf.json is m",
        ),
        (
            "train --records {0}/records --output {0}/new --hosts 2",
            "--hosts: these are set for each host; give --count",
        ),
        (
            "train --records {0}/records --output {0}/new --hosts 2 --coordinator a:1",
            "--hosts and --coordinator: these",
        ),
        ("train --records {0}/records --output {0}/records", "--output {0}/records is a folder of records; give the"),
        (
            "segment --input {0}/photos --model {0}/model --output {0}/photos/",
            "--output {0}/photos/ is also --input",
        ),
        (
            "tune-crf --model {0}/model --records {0}/records --output {0}/records/dataset.json",
            "{0}/records/dataset.json was not written by `deeplab tune-crf`; move it away, or give another --output",
        ),
        (
            "tune-crf --model {0}/model --records {0}/records --output {0}/model/model.json",
            "{0}/model/model.json was not written by `deeplab tune-crf`",
        ),
        ("tune-crf --model {0}/odd --records {0}/records", "{0}/odd/crf.json was not written by `deeplab tune-crf`"),
        (
            "segment --input {0}/photos/*.tif --model {0}/model --output {0}/masks",
            "--input {0}/photos/*.tif does not exist",
        ),
        (
            "segment --input {0}/photos --model {0}/model --output {0}/m --crf on --crf-engine pydensecrf",
            "--crf-engine pydensecrf is not in the trainer image",
        ),
        (
            "segment --input {0}/photos --model {0}/model --output {0}/m --direct_num_workers",
            "--direct_num_workers : expected a number",
        ),
        ("train --records {0}/records --output new", "--output new would be lost with the job's machine; give a gs:"),
        (
            "train --records out --output {0}/new",
            "--records out is a local path, which the job's machines cannot see",
        ),
    ],
)
def test_what_is_wrong_with_the_command_is_said(place, command, said):
    found = problems("kubernetes", command=command.format(place))
    assert len(found) == 1 and said.format(place) in found[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("stray", "does not know stray; of Beam's flags"),
        ("-x a=b", "does not know -x;"),
        ("a=b", "does not know a=b;"),
        ("--direct_num_workers 4 stray --direct_running_mode=in_memory other", "does not know stray, other;"),
        ("--direct_num_workers=4 -- stray", "does not know"),
        ("--typo 1 --crf-sxyy=3", "does not know --typo, --crf-sxyy (did you mean --crf-sxy?);"),
    ],
)
def test_every_word_that_is_no_flag_and_no_value_is_refused(place, words, said):
    command = f"segment --input {place}/photos --model {place}/model --output {place}/m {words}"
    (sentence,) = problems("vertex", *VERTEX, command=command)
    assert sentence.startswith(f"deeplab segment {said}")


TRAIN = "train --records {0}/records --output {0}/new"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--image", ""], "--image is missing: the trainer image of the Dockerfile"),
        (["--image", "https://ghcr.io/x"], "--image https://ghcr.io/x is not the name of an image; expected REG"),
        (["--image", "Trainer:1"], "--image Trainer:1 is not the name of an image"),
        (["--image", "ghcr.io/x:"], "--image ghcr.io/x: is not the name of an image"),
        (["--image", "host:5000/trainer:v0.1.0-cuda"], f"is of version 0.1.0, and this is {__version__}"),
        (["--namespace", "Research"], "--namespace Research: expected at most 63 lower-case letters"),
        (
            ["--service-account", "a@b.iam"],
            "--service-account a@b.iam: expected the name of an account in the namespa",
        ),
        (
            ["--machine-type", "g2-standard-7"],
            "--machine-type g2-standard-7 is not in the table of 2026, of whose fam",
        ),
        (["--name", "Model_1"], "--name Model_1: expected at most 40 lower-case letters"),
        (["--labels", "Team=a"], "--labels Team=a: expected KEY=VALUE of lower-case letters"),
        (["--env", "1A=S3cret"], "--env 1A=...: expected NAME=VALUE"),
        (["--env", "A", "S3cret"], "--env with a word that has no =: expected NAME=VALUE"),
        (["--env", "A=S3cret", "C=d", "--env", "A=S3cret2"], "--env gives A twice; give it once"),
        (["--labels", "team=a", "--labels", "team=a"], "--labels gives team twice; give it once"),
        (["--accelerator", "nvidia-l4:many"], "--accelerator nvidia-l4:many: expected NAME or NAME:N"),
        (["--machine-type", "g2-standard-24", "--accelerator", "nvidia-l4"], ""),
        (["--machine-type", "g2-standard-24"], ""),
        (["--machine-type", "g2-standard-8", "--accelerator", "nvidia-l4:2"], "takes 1 of nvidia-l4, got 2"),
        (["--machine-type", "g2-standard-8", "--accelerator", "nvidia-l4:2", "--unlisted"], ""),
        (["--count", "3"], "--batch-size is over all hosts together and must be a multiple of --hosts, got 8 and 3"),
        (["--count", "2", "--env", "KERAS_BACKEND=torch"], "--env KERAS_BACKEND: several hosts train under jax"),
        (["--count", "2"], ""),
        (["--env", "KERAS_BACKEND=torch"], "--env KERAS_BACKEND=torch: the trainer image has tensorflow and jax"),
        (
            ["--count", "4", "--accelerator", "nvidia-l4:4"],
            "--batch-size 8 is shared by 16 GPUs; give a multiple of 16",
        ),
        (["--count", "4", "--accelerator", "nvidia-l4:2"], ""),  # under JAX batch norms see all images as one batch
        (["--accelerator", "nvidia-l4:3"], "--batch-size 8 is shared by 3 GPUs; give a multiple of 3, at least 6"),
        (["--accelerator", "nvidia-l4:8"], "--batch-size 8 is shared by 8 GPUs; give a multiple of 8, at least 16"),
    ],
)
def test_what_is_wrong_with_the_machines_is_said(place, flags, said, capsys):
    status = submit("kubernetes", *flags, "--dry-run", command=TRAIN.format(place).split())
    told = capsys.readouterr().err
    assert said in told and status == (2 if said else 0)
    assert "S3cret" not in told


@pytest.mark.parametrize(
    ("flags", "command", "said"),
    [
        ([], "--batch-size 1", "--batch-size 1 leaves one image per GPU, of which batch norms cannot learn; give 2"),
        ([], "--batch-size 1 --freeze-bn", ""),
        (
            ["--accelerator", "nvidia-l4:1"],
            "--accumulate 3",
            "--batch-size 8 is shared by 3 parts; give a multiple of 3",
        ),
        (["--accelerator", "nvidia-l4:1"], "--accumulate 8", "8 parts; give a multiple of 8, at least 16"),
        (["--accelerator", "nvidia-l4:2"], "--accumulate 4", "2 GPUs and 4 parts; give a multiple of 8, at least 16"),
        (["--accelerator", "nvidia-l4:2"], "--accumulate 2", ""),
        (["--accelerator", "nvidia-l4:2", "--env", "KERAS_BACKEND=jax"], "--accumulate 4", ""),
    ],
)
def test_a_batch_that_train_would_refuse_is_refused(place, flags, command, said, capsys):
    words = f"{TRAIN.format(place)} {command}".split()
    assert submit("kubernetes", *flags, "--dry-run", command=words) == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_vertex_needs_machine_and_region_and_gpus_that_are_there(place):
    assert [line.split(":")[0] for line in problems("vertex", command=TRAIN.format(place))] == [
        "--machine-type is missing",
        "--region is missing",
    ]
    (region,) = problems(
        "vertex", *["--region", "us-west4", "--machine-type", "g2-standard-8"], command=TRAIN.format(place)
    )
    assert region.startswith("--region us-west4 has no nvidia-l4 for Vertex AI jobs")
    zone, machine = problems(
        "vertex", *["--region", "us-west4-a", "--machine-type", "G2-Standard-8"], command=TRAIN.format(place)
    )
    assert zone == "--region us-west4-a: expected the name of a region, such as europe-west4"
    assert machine.startswith("--machine-type G2-Standard-8: expected a machine type of Google Cloud")


def test_all_that_is_wrong_is_listed_and_nothing_is_sent(place, capsys):
    flags = ["--image", "trainer:0.0.1", "--name", "X", "--accelerator", "nvidia-l5:1", "--count", "2"]
    command = f"segment --input here --model {place}/lost --output {place}/masks --typo 1".split()
    assert submit("kubernetes", *flags, command=command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7 and all(line.startswith("deeplab submit kubernetes: error: ") for line in lines)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("segment --input {0}/photos --model {0}/model --output {0}/m --overwrite", "--overwrite"),
        ("train --records {0}/records --output {0}/new --no-resume", "--no-resume"),
    ],
)
def test_a_job_that_could_not_resume_is_a_warning_and_refused_where_machines_are_taken_away(
    place, command, flag, capsys
):
    words = command.format(place).split()
    assert submit("kubernetes", "--accelerator", "nvidia-l4:1", "--dry-run", command=words) == 0
    said = f"warning: with {flag}, {words[0]} starts from scratch whenever the job is restarted; to have it resume"
    assert said in capsys.readouterr().err
    assert submit("vertex", *VERTEX, "--spot", "--dry-run", command=words) == 2
    said = f"--spot: with {flag}, {words[0]} would start from scratch whenever its machine is taken away; omit {flag}"
    assert said in capsys.readouterr().err


def test_a_training_that_replaces_a_model_and_resumes_is_taken(place):
    command = f"train --records {place}/records --output {place}/model --overwrite"
    assert problems("vertex", *VERTEX, "--spot", command=command) == []


def test_a_version_that_no_tag_names_is_a_warning(place, capsys):
    image = ("--image", "ghcr.io/me/trainer:latest")
    assert submit("kubernetes", *image, "--dry-run", command=TRAIN.format(place).split()) == 0
    told = capsys.readouterr().err
    assert f"its tag names no version; make sure that it has {__version__}" in told and "no GPUs" in told


@pytest.mark.parametrize(("command", "output", "lease"), [
    (TRAIN, "new", "new/.deeplab-lease.json"),
    ("tune-crf --model {0}/model --records {0}/records", "model/crf.json", "model/.crf.json.deeplab-lease.json"),
    ("tune-crf --model {0}/model --records {0}/records", "model/crf.json", "model/crf.tuning/.deeplab-lease.json"),
])  # fmt: skip
def test_an_output_that_another_job_may_write_to_is_a_warning(command, output, lease, place, capsys):
    storage.write(f"{place}/{lease}", b"{}")
    assert submit("kubernetes", "--dry-run", command=command.format(place).split()) == 0
    assert f"{place}/{output} is being written by another job" in capsys.readouterr().err
    storage.remove(f"{place}/{lease}")


def test_a_model_folder_with_files_of_others_alone_is_taken(place):
    storage.write(f"{place}/notes/notes.txt", b"")
    assert problems("kubernetes", command=f"train --records {place}/records --output {place}/notes") == []


def test_a_backend_of_keras_that_does_not_exist_here_is_named(place, monkeypatch):
    """A folder that holds something is looked at by the training's own checks, which load Keras."""
    storage.write(f"{place}/notes/notes.txt", b"")
    monkeypatch.setenv("KERAS_BACKEND", "tensrflow")
    (said,) = problems("kubernetes", command=f"train --records {place}/records --output {place}/notes")
    assert "KERAS_BACKEND is 'tensrflow'; expected one of" in said
