from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.inputs.coding import detect_palette
from pipelines.inputs.rawset import scan
from pipelines.plan import command, sample, trial
from pipelines.plan.command import commands, duration, run_trial, size
from pipelines.plan.estimate import Trial
from pipelines.prepare.plan import plan_shards
from pipelines.runner import partners
from pipelines.runner.flags import beam_options, located
from pipelines.segment.plan import chunk_size
from tests.drawn.dataflow import WORKERS
from tests.drawn.networks import write_model
from tests.drawn.places import ROOT
from tests.drawn.rawset import write_rawset
from tests.drawn.records import PALETTE
from tests.drawn.segmenting import draw, save
from tests.drawn.training import SMALL, draw_records
from trainer import processes
from trainer.options import InputError


@pytest.mark.parametrize("batch_size", [1, 8, 100])
@pytest.mark.parametrize("images", [1, 63, 500, 5_000, 100_000, 10_000_000])
def test_chunks_are_as_many_as_segment_cuts(images, batch_size):
    assert sample.chunks(images, batch_size) == -(-images // chunk_size(images, batch_size))


@pytest.mark.parametrize("shards", [0, 1, 7, 40, 1000])
def test_shards_are_as_many_as_prepare_writes(tmp_path: Path, shards):
    source = write_rawset(tmp_path / "set", {"train": 24, "val": 12}, 64)
    flags = ["--input", source, "--output", tmp_path / "records", "--copies", "1", "--shards", shards]
    options = cli.read(["prepare", *map(str, flags)])[1]
    study = sample.of_prepare(options, str(tmp_path), 20, 2, [])
    palette, _ = detect_palette(raw := scan(str(source)), "auto")
    written = len(plan_shards(raw, palette, options).shards)
    assert (study.cut, study.writes) == (written, 3 * written)


def study_of_segment(tmp_path: Path, *flags: object) -> sample.Study:
    write_model(tmp_path / "model", PALETTE)
    flags = ["--input", tmp_path / "photos", "--model", tmp_path / "model", "--output", tmp_path / "masks", *flags]
    return sample.of_segment(cli.read(["segment", *map(str, flags)])[1], str(tmp_path), 20, 2, [])


def test_images_that_segment_rejects_do_not_end_its_plan(tmp_path: Path):
    for number in range(11):
        save(tmp_path / f"photos/{number:02d}.png", draw(40, 60, number))
    (tmp_path / "photos/11.png").symlink_to("nowhere")
    (tmp_path / "photos/12.png").write_bytes(b"no image")
    study = study_of_segment(tmp_path)
    assert (study.images, study.network[1:3]) == (13, (40, 60))


def test_the_network_sees_large_images_shrunk(tmp_path: Path):
    for number in range(10):
        save(tmp_path / f"photos/{number:02d}.png", draw(40, 60, number))
    study = study_of_segment(tmp_path, "--max-side", 30, "--max-pixels", 600)
    assert study.network[1:3] == (20, 30), "as in `segment`, the bound is on pixels after --max-side"
    assert study_of_segment(tmp_path, "--max-pixels", 600).network is None


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
        **{"reads": 2 * 50 + 2, "writes": 6, "listing": 0, "flops": 0.0, "is_shared": True},
    }
    for words in ran:
        assert words[-2:] == ["--direct_num_workers", "2"] and "--copies" in words and str(output) not in words
    assert not output.exists()


@pytest.mark.parametrize(("walls", "counted"), [([1.0, 9.0, 2.0], 2.0), ([5.5], 5.5), ([4.9, 4.7, 4.8], 4.8)])
def test_a_short_trial_runs_three_times_and_that_of_median_time_counts(walls, counted, monkeypatch, tmp_path, capsys):
    left = list(walls)
    monkeypatch.setattr(trial, "run", lambda *_: Trial(10, 0, left.pop(0), 1.0, 1 << 20, 1000))
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    study = sample.of_prepare(
        cli.read(["prepare", "--input", str(source), "--output", str(tmp_path / "out")])[1], str(tmp_path), 10, 2, []
    )
    assert run_trial(study.parts[0], 1, study).wall == counted and left == []


@pytest.mark.parametrize(
    "words", [["prepare"], ["segment", "--model", "gs://b/model", "--crf", "--scales", "1", "1.5"]]
)
def test_the_commands_of_a_plan_pass_the_checks_before_a_job_is_sent(words):
    _, options, _ = cli.read([*words, "--input", "gs://b/a set", "--output", "gs://b/out"])
    lines = [line for line in commands(words[0], options, 64) if line.startswith("  ")]
    assert len(lines) == 3
    for line in lines:
        _, read, flags = cli.read(shlex.split(line.replace("IMAGE", WORKERS))[1:])
        assert read == options
        assert located(beam_options(flags), read, "input", "output") == options


def test_trials_are_of_images_drawn_from_all_of_the_set(tmp_path: Path, ran):
    source = write_rawset(tmp_path / "set", {"train": 30}, 64)
    flags = ["--input", str(source), "--output", str(tmp_path / "out"), "--val-fraction", "0"]
    options = cli.read(["prepare", *flags])[1]
    parts = sample.of_prepare(options, str(tmp_path), 20, 2, []).parts
    rows = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("few", "many")
    ]
    assert [len(row) for row in rows] == [4, 20] == [part.items for part in parts]
    assert all(Path(row["image"]).is_file() and row["split"] == "train" for row in rows[1])
    assert len({row["image"] for row in rows[1]}) == 20 and rows[0][0] in rows[1]


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


def test_a_trial_that_fails_ends_the_plan_with_its_message(tmp_path: Path):
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    output = tmp_path / "before"
    save(output / "what the trial before it has written.png", draw(40, 56, 1))
    with pytest.raises(InputError, match="nowhere not found"):
        trial.run(["prepare", "--input", str(source / "nowhere"), "--output", str(output)], str(output), 10)
    assert not output.exists()


@pytest.mark.parametrize(("records", "has_partners"), [(1_999, False), (2_000, True)])
def test_a_trial_has_partners_if_its_whole_job_has(monkeypatch, records, has_partners):
    monkeypatch.setattr(partners, "MANY", partners.MANY)
    monkeypatch.setattr(trial.ending, "watch_parent", lambda parent: None)
    monkeypatch.setattr(sys, "argv", ["trial", str(os.getppid()), str(records), "prepare"])
    monkeypatch.setattr(trial.cli, "main", lambda: partners.number(2, items=50))
    with pytest.raises(SystemExit) as ended:
        trial.main()
    assert (sys.argv, bool(ended.value.code)) == (["trial", "prepare"], has_partners)


SLEEPER = """
import os, time
from pipelines.plan import trial

def main():
    with open("{0}/number.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("{0}/number.part", "{0}/number")
    time.sleep(600)

trial.cli.main = main
trial.main()
"""
"""A trial of a command that sleeps, and writes the number of its process."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_trial_ends_with_its_plan(number, tmp_path: Path):
    (tmp_path / "sleeper.py").write_text(SLEEPER.format(tmp_path))
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path}/sleeper.py "$@"\n')
    sleeper.chmod(0o755)
    program = "import sys\nfrom pipelines.plan import trial\n"
    program += f"sys.executable = {str(sleeper)!r}\ntrial.run(['demo'], {str(tmp_path / 'out')!r}, 10)"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as plan:
        while not (tmp_path / "number").exists():
            assert plan.poll() is None
            time.sleep(0.01)
        trial_process = processes.name(int((tmp_path / "number").read_text()))
        plan.send_signal(number)
        assert plan.wait() == -number
    for _ in range(1000):
        if not processes.is_alive(trial_process):
            break
        time.sleep(0.02)
    assert not processes.is_alive(trial_process)


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


def test_a_plan_of_a_training_prints_nothing_of_tensorflow(tmp_path: Path):
    records = draw_records(tmp_path / "records")
    program = (
        "import sys; from pipelines import cli; from pipelines.plan import sample; "
        "study = sample.of_train(cli.read(sys.argv[2:])[1], sys.argv[1], 8, 1, ()); print(study.network[3])"
    )
    argv = [str(tmp_path / "plan"), "train", "--records", str(records), "--output", str(tmp_path / "model"), *SMALL]
    done = subprocess.run([sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0 and done.stderr == ""


def test_sizes_and_times_are_those_that_people_read():
    assert [size(count) for count in (2048, 3 << 20, 5 << 29)] == ["2 KiB", "3.0 MiB", "2.5 GiB"]
    assert [duration(seconds) for seconds in (12.4, 89, 91, 5340, 9000)] == [
        "12 s",
        "89 s",
        "2 min",
        "89 min",
        "2 h 30 min",
    ]
