from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.plan import command, sample, trial
from pipelines.plan.command import commands, doubts, duration, hundredths, on_a_gpu, run_trial, size
from pipelines.plan.estimate import Trial, read_prices
from pipelines.runner.flags import beam_options, located
from tests.drawn.dataflow import FLAGS, WORKERS
from tests.drawn.networks import write_model
from tests.drawn.rawset import write_rawset
from tests.drawn.records import PALETTE
from tests.drawn.segmenting import draw, save
from tests.drawn.training import SMALL, draw_records
from trainer.options import InputError


@pytest.fixture
def ran(monkeypatch) -> list[list[str]]:
    """Trials that take as long as they have items, and are not run; their arguments."""
    arguments = []

    def took(words, output: str, items: int, rounds: int = 0, whole: int = 0) -> Trial:
        arguments.append(list(words))
        assert whole in ({10, 130} if words[0] == "prepare" else {0}), "records of the whole job"
        cli.read(list(words))
        return Trial(items, rounds, 2 + 0.1 * items + 3 * rounds, 3 + 0.15 * items, 200 << 20, 1000 * items)

    monkeypatch.setattr(trial, "run", took)
    return arguments


def plan(*words: object) -> int:
    return cli.run(["plan", *map(str, words)])


def test_a_plan_of_prepare_says_what_all_of_it_takes(tmp_path: Path, ran, capsys):
    source = write_rawset(tmp_path / "set", {"train": 40, "val": 10}, 64)
    output = tmp_path / "records"
    flags = ["--input", source, "--output", output, "--copies", "2", "--seed", "5"]
    assert (
        plan("prepare", *flags, "--sample", "20", "--json", tmp_path / "plan.json", "--direct_num_workers", "2") == 0
    )
    text = capsys.readouterr().out
    assert "[1/2] prepare of 4 images: " in text and "[2/2] prepare of 20 images: 4.0 s" in text
    assert f"deeplab prepare --seed 5 --input {source} --output {output} --copies 2 --runner DataflowRunner" in text
    # Without a command that starts workers, such a job is refused.
    assert """--parallelism 64 --environment_type PROCESS --environment_config '{"command": "BOOT"}'""" in text
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["work"] | {"read": 0, "listing": 0} == {
        **{"items": 50, "rounds": 0, "unit": "images", "images": 50, "read": 0, "written": 50_000, "parts": 2},
        **{"reads": 2 * 50 + 4 * 2, "writes": 4 * 2, "listing": 0, "flops": 0.0, "is_shared": True},
    }
    for words in ran:
        assert words[-2:] == ["--direct_num_workers", "2"] and "--copies" in words and str(output) not in words
    assert not output.exists()


@pytest.mark.parametrize(("walls", "counted"), [([1.0, 9.0, 2.0], 2.0), ([5.5], 5.5), ([4.9, 4.7, 4.8], 4.8)])
def test_a_short_trial_runs_three_times_and_that_of_median_time_counts(walls, counted, monkeypatch, tmp_path, capsys):
    left = list(walls)
    monkeypatch.setattr(trial, "run", lambda *_: Trial(10, 0, left.pop(0), 1.0, 1 << 20, 1000, len(walls) - 1))
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    study = sample.of_prepare(
        cli.read(["prepare", "--input", str(source), "--output", str(tmp_path / "out")])[1], str(tmp_path), 10, 2, []
    )
    assert run_trial(study.parts[0], 1, study).wall == counted and left == []
    assert capsys.readouterr().out.endswith(" 1 MiB, 2 rejected\n" if len(walls) > 1 else " 1 MiB\n")


def test_the_error_of_a_trial_gets_a_line_of_its_own(monkeypatch, tmp_path: Path, capsys):
    def fail(*_):
        raise InputError("it fails")

    monkeypatch.setattr(trial, "run", fail)
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    with pytest.raises(InputError, match="it fails"):
        plan("prepare", "--input", source, "--output", tmp_path / "out")
    assert capsys.readouterr().out == "[1/2] prepare of 2 images\n"


@pytest.mark.parametrize("job", ["prepare", "segment", "train"])
def test_the_error_of_a_trial_names_the_files_of_the_job(job, monkeypatch, tmp_path: Path):
    def fail(words, output, *_):
        _, options, _ = cli.read(list(words))
        raise InputError(f"{options.records if job == 'train' else options.input} and {output}/x fail")

    monkeypatch.setattr(trial, "run", fail)
    monkeypatch.setattr(command, "forward_flops", lambda *_: 1.0)  # which takes seconds, and no trial
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    flags = {"prepare": ["--input", source], "segment": ["--input", source / "images", "--model", tmp_path / "model"]}
    if job == "train":
        flags["train"] = ["--records", draw_records(tmp_path / "records")]
    write_model(tmp_path / "model", PALETTE)
    expected = rf"^{re.escape(str(flags[job][1]))} and {re.escape(str(tmp_path / 'out'))}/x fail$"
    with pytest.raises(InputError, match=expected):
        plan(job, *flags[job], "--output", tmp_path / "out")


DATAFLOW = read_prices()["dataflow"]


@pytest.mark.parametrize(
    "words",
    [
        "train",
        "train --recipe from-scratch --epochs 40",
        "train --recipe from-scratch --epochs 120 --max-ratio 5",
        "train --init-from m --lovasz 0 --max-ratio 10 --epochs 40",
        "train --init-from m --recipe from-scratch",
        "train --init-from m --recipe finish --no-freeze-bn --learning-rate 1e-3 --output-stride 16",
        "train --recipe quick --epochs 10 --aspp-rates 6 12 18 --no-flip",
        r"prepare --group-by=-?a(\d) --scale 0.1 0.5 --val-fraction 1e-05 --augment-splits=-a --augment-splits val",
        "segment --max-side 0 --crf --crf-sxy 3 --scales 1 1.5 --no-masks --output=-masks --model=--m",
    ],
)
def test_the_words_of_a_command_parse_back_to_its_options(words):
    command, *flags = words.split()
    places = {"train": "--records r --output o", "prepare": "--input i --output o", "segment": "--input i"}
    _, options, _ = cli.read([command, *places[command].split(), *flags])
    _, line, *_ = commands(command, options, 64, [], beam_options([]), DATAFLOW)
    assert cli.read(shlex.split(line)[1:])[1] == options


FLINK = ["--runner", "FlinkRunner", "--flink_master=host:8081", "--environment_type=EXTERNAL"]
FLINK += ["--environment_config=host:50000"]


@pytest.mark.parametrize(
    "flags", [[], ["--direct_num_workers", "1"], FLINK, FLAGS, [*FLAGS, "--max_num_workers", "3"]]
)
@pytest.mark.parametrize(
    "words", [["prepare"], ["segment", "--model", "gs://b/model", "--crf", "--scales", "1", "1.5"]]
)
@pytest.mark.parametrize("price", [DATAFLOW, {"machine": "n2-standard-8", "cores": 8}])
def test_the_commands_of_a_plan_pass_the_checks_before_a_job_is_sent(words, flags, price):
    _, options, _ = cli.read([*words, "--input", "gs://b/a set", "--output", "gs://b/out"])
    lines = [
        line for line in commands(words[0], options, 64, flags, beam_options(flags), price) if line.startswith("  ")
    ]
    assert len(lines) == 3
    if not flags:
        machines = (
            "--max_num_workers 8 --machine_type n2-standard-8" if price["cores"] == 8 else "--max_num_workers 16"
        )
        assert lines[-1].endswith(machines)
    given = {"--direct_num_workers": 0, "FlinkRunner": 1, "--runner=DataflowRunner": 2}
    for number, line in enumerate(lines):
        filled = line.replace("IMAGE", WORKERS).replace("HOST:PORT", "filled:1")
        _, read, rest = cli.read(shlex.split(filled)[1:])
        assert read == options
        assert located(beam_options(rest), read, "input", "output") == options
        if number in [given[flag] for flag in flags if flag in given]:
            assert rest[: len(flags)] == flags and not {"PROJECT", "REGION", "filled:1"} & {*rest}
            assert len(names := [flag.partition("=")[0] for flag in rest if flag[:2] == "--"]) == len({*names})
        else:
            assert not {*flags} & {*rest} - {"--runner"}


@pytest.mark.parametrize("given", ["segment --model gs://b/m --input gs://b/x", "train --records gs://b/r --crop 320"])
def test_a_plan_has_the_command_for_a_gpu(given):
    _, options, _ = cli.read([*given.split(), "--output", "gs://b/a set"])
    title, line = on_a_gpu(given.split()[0], options)
    assert title == "on a GPU, with paths in gs://:"
    submitted = cli.read(shlex.split(line)[1:])[1]
    assert (submitted.image, submitted.machine_type, submitted.region) == ("IMAGE", "MACHINE", "REGION")
    assert cli.read(list(submitted.command))[1] == options


def test_trials_that_tell_nothing_of_an_item_are_doubted():
    few, many = Trial(20, 0, 2.0, 3.0, 0, 0), Trial(100, 0, 2.0, 3.0, 0, 0)
    assert "took no longer for more work" in doubts([few, many])[0]
    assert doubts([few, replace(many, cpu=4.0)]) == []


def test_a_plan_for_a_cluster_of_another_kind_keeps_its_flags():
    _, options, _ = cli.read(["prepare", "--input", "gs://b/set", "--output", "gs://b/out"])
    flags = ["--runner", "SparkRunner", "--spark_master_url", "spark://h:7077", *FLINK[-2:]]
    title, line = commands("prepare", options, 64, flags, beam_options(flags), DATAFLOW)[2:4]
    assert title == "on the cluster:" and line.endswith(shlex.join(flags))


def test_operations_are_counted_before_any_trial(tmp_path: Path, ran, monkeypatch):
    def fail(*_):
        raise InputError("it fails")

    monkeypatch.setattr(command, "forward_flops", fail)
    write_model(tmp_path / "model", PALETTE)
    for number in range(10):
        save(tmp_path / f"photos/{number}.png", draw(40, 60, number))
    with pytest.raises(InputError, match="it fails"):
        plan("segment", "--input", tmp_path / "photos", "--model", tmp_path / "model", "--output", tmp_path / "out")
    assert not ran


def test_a_set_too_small_for_a_plan_is_refused(tmp_path: Path, ran):
    source = write_rawset(tmp_path / "set", {"train": 9}, 64)
    with pytest.raises(InputError, match="has 9 images; a job of fewer than 10 is not worth planning; just run it"):
        plan("prepare", "--input", source, "--output", tmp_path / "out")
    assert not ran


def test_flags_of_the_job_are_checked_before_anything_runs(tmp_path: Path, ran):
    with pytest.raises(InputError, match="--copies must be 0 or more"):
        plan("prepare", "--input", tmp_path, "--output", tmp_path / "out", "--copies", "-1")
    with pytest.raises(InputError, match="unknown arguments: --copy"):
        plan("prepare", "--input", tmp_path, "--output", tmp_path / "out", "--copy", "1")
    assert not ran


def test_prices_are_written_to_be_edited(tmp_path: Path, ran):
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    flags = ["--input", source, "--output", tmp_path / "out"]
    assert plan("prepare", *flags, "--save-prices", tmp_path / "prices.json") == 0
    prices = json.loads((tmp_path / "prices.json").read_text())
    assert prices["dataflow"]["core_hour"] > 0
    assert plan("prepare", *flags, "--save-prices", tmp_path / "prices.json") == 0
    prices["dataflow"]["core_hour"] = 7
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    with pytest.raises(InputError, match=r"--save-prices \S+prices\.json: there is a file already"):
        plan("prepare", *flags, "--save-prices", tmp_path / "prices.json")
    assert json.loads((tmp_path / "prices.json").read_text()) == prices


@pytest.mark.parametrize("flag", ["--json", "--save-prices"])
@pytest.mark.parametrize("name", ["palette.json", "images/train/a0.jpg"])
def test_no_file_but_an_earlier_plan_is_replaced(flag, name, tmp_path: Path, ran):
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    file = source / name
    before = file.read_bytes()
    with pytest.raises(InputError, match=f"{flag} {file}: there is a file already, which would be replaced"):
        plan("prepare", "--input", source, "--output", tmp_path / "out", flag, file)
    assert file.read_bytes() == before and not ran


@pytest.mark.slow
def test_every_job_is_tried_by_its_own_command(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(command, "TIMES", 1)
    records = draw_records(tmp_path / "records")
    train = [*SMALL, "--records", records, "--output", tmp_path / "model"]
    assert plan("train", "--sample", "40", *train, "--json", tmp_path / "plan.json") == 0
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["work"]["items"] == 100 and content["work"]["rounds"] == 2 and content["work"]["flops"] > 1e7
    assert [one["items"] for one in content["trials"]] == [2, 10, 4] and content["trials"][0]["written"] > 100_000
    assert len(content["estimates"]) == 2
    write_model(tmp_path / "model", PALETTE)
    for number in range(12):
        save(tmp_path / "images" / f"{number}.png", draw(40, 56, number))
    segment = ["--input", tmp_path / "images", "--model", tmp_path / "model", "--output", tmp_path / "masks"]
    assert plan("segment", *segment, "--sample", "10", "--json", tmp_path / "plan.json") == 0
    content = json.loads((tmp_path / "plan.json").read_text())
    assert [one["items"] for one in content["trials"]] == [2, 10] and content["work"]["flops"] > 1e7
    assert len(content["estimates"]) == 4 and not (tmp_path / "masks").exists()
    prepare = ["--input", write_rawset(tmp_path / "set", {"train": 20}, 64), "--output", tmp_path / "out"]
    assert plan("prepare", *prepare, "--sample", "20", "--json", tmp_path / "plan.json") == 0
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["trials"][1]["written"] > content["trials"][0]["written"] > 1000
    assert all(one["memory"] > 50 << 20 for one in content["trials"])


def test_little_money_is_not_none():
    assert [hundredths(amount) for amount in (0.0, 0.0004, 0.006, 1234.5)] == ["0.00", "<0.01", "0.01", "1,234.50"]


def test_sizes_and_times_are_those_that_people_read():
    assert [size(count) for count in (2048, 3 << 20, 5 << 29)] == ["2 KiB", "3.0 MiB", "2.5 GiB"]
    assert [duration(seconds) for seconds in (12.4, 89, 91, 5340, 9000)] == [
        "12 s",
        "89 s",
        "2 min",
        "89 min",
        "2 h 30 min",
    ]
