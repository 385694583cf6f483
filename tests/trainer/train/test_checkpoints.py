"""Trainings that end within an epoch, and go on there as if they had not."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from pipelines import cli
from tests.drawn.places import ROOT
from tests.drawn.training import assert_same_checkpoint, colour_network, draw_records, history, train_flags
from trainer.formats.dataset import load_dataset, save_dataset
from trainer.options import InputError
from trainer.train import command, model, resume
from trainer.train.epoch import enough_memory
from trainer.train.resume import Checkpoints

SHORT = ["--epochs", "2", "--steps-per-epoch", "3", "--weight-decay", "0.01"]


@pytest.fixture(scope="module")
def whole(records, tmp_path_factory):
    """The folder of a training that nobody interrupted."""
    output = tmp_path_factory.mktemp("whole") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "deeplab_v3_plus", colour_network)
        assert cli.main(train_flags(records, output, *SHORT)) == 0
    return output


def state(output) -> tuple[int, int, str]:
    """Finished epochs, steps of the next, and the file of arrays that a training resumes from."""
    value = json.loads((output / "checkpoints" / "state.json").read_text())
    return len(value["history"]), value["step"], value["arrays"]


def test_a_training_interrupted_at_any_step_resumes_with_the_same_result(
    whole, records, tmp_path, tiny_network, ctrl_c, monkeypatch, capsys
):
    output = tmp_path / "model"

    def run(*more: str) -> tuple[int, str, str]:
        status = cli.main(train_flags(records, output, *SHORT, *more))
        return status, *capsys.readouterr()

    with monkeypatch.context() as patch:  # SIGTERM in the second step

        def due(_):
            steps.append(len(steps))
            if len(steps) == 2:
                signal.raise_signal(signal.SIGTERM)

        steps = []
        patch.setattr(Checkpoints, "due", due)
        status, _, err = run()
    assert status == 143 and "step 2 of epoch 1 is kept; run the same command again to resume" in err
    assert state(output) == (0, 2, "epoch-0001-step-000002.npz")

    with monkeypatch.context() as patch:  # killed in the step after a checkpoint that was due

        def save(*args, save=resume.save):
            if len(saved) == 3:
                raise SystemExit("killed")
            saved.append(args)
            save(*args)

        saved = []
        patch.setattr(resume, "save", save)
        with pytest.raises(SystemExit, match="killed"):
            run("--checkpoint-minutes", "1e-9")
    assert "resuming after step 2 of 3 in epoch 1 of 2" in capsys.readouterr().out
    assert state(output) == (1, 1, "epoch-0002-step-000001.npz")
    assert not list((output / "checkpoints").glob("epoch-0001*"))

    with monkeypatch.context() as patch:  # Ctrl-C while the validation runs
        patch.setattr(command, "validate", lambda *_: signal.raise_signal(signal.SIGINT))
        status, _, err = run()
    assert status == 130 and "interrupted; step 3 of epoch 2 is kept" in err
    assert state(output) == (1, 3, "epoch-0002-step-000003.npz")

    status, out, _ = run()
    assert status == 0 and "resuming after step 3 of 3 in epoch 2 of 2" in out
    assert state(output) == (2, 0, "epoch-0002.npz")
    for row, expected in zip(history(output), history(whole), strict=True):
        assert row | {"seconds_per_step": 0} == expected | {"seconds_per_step": 0}
    assert_same_checkpoint(output / "checkpoints/epoch-0002.npz", whole / "checkpoints/epoch-0002.npz")


def test_a_first_checkpoint_within_an_epoch_replaces_the_training_that_was_there(
    whole, records, tmp_path, tiny_network, monkeypatch
):
    """Not with arrays of the one under the name of the other, wherever it is killed."""
    output = tmp_path / "model"
    flags = train_flags(records, output, *SHORT, "--checkpoint-minutes", "1e-9")

    def interrupted(*args, save=resume.save):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", interrupted)
    assert cli.main(flags) == 130
    assert state(output)[:2] == (0, 1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", killed)
    assert cli.main([*flags, "--no-resume", "--max-ratio", "5"]) == 130
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["state.json"]
    assert resume.load(str(output)).is_new


def test_curves_of_a_training_are_not_mixed_with_those_of_one_that_was_interrupted_in_its_first_epoch(
    records, tmp_path, tiny_network, monkeypatch
):
    flags = train_flags(records, tmp_path / "model", *SHORT, "--epochs", "1", "--checkpoint-minutes", "1e-9")
    assert cli.main(flags) == 0

    def interrupted(*args, save=resume.save):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", interrupted)
        assert cli.main([*flags, "--no-resume"]) == 130
    assert cli.main(flags) == 0
    assert len([*(tmp_path / "model/logs").iterdir()]) == 1


def test_checkpoints_are_due_by_the_minutes_since_the_last_one(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(resume, "save", lambda *_: None)
    fresh = resume.Progress({}, "", step=1)
    often, never = (Checkpoints("out", None, fresh, minutes) for minutes in (0.5, 0))
    assert not often.due()
    clock[0] = 30.0
    assert often.due() and not never.due()
    often.write(fresh)
    assert not often.due()
    clock[0] = 59.0
    assert not often.due()


FORKS = """
import os, sys
sys.path.insert(0, {root!r})
from pipelines import cli
from tests.drawn.training import colour_network
from trainer.train import command, model  # once for all: it takes longer than the training
model.deeplab_v3_plus = colour_network
sys.stdout = open(os.devnull, "w")
for _ in sys.stdin:
    if not (child := os.fork()):
        os._exit(cli.main(sys.argv[1:]))
    os.write(1, b"%d\\n" % child)
    os.write(1, b"%d\\n" % os.waitpid(child, 0)[1])
"""
"""Starts the training of its arguments for every line it reads, and writes the process and how it ended."""


@pytest.mark.slow
def test_a_training_killed_six_times_at_random_gives_the_same_result(records, tmp_path):
    epochs, steps, kills = 3, 40, 6
    flags = ["--epochs", str(epochs), "--steps-per-epoch", str(steps), "--checkpoint-minutes", "1e-9"]
    whole, output = tmp_path / "whole", tmp_path / "killed"
    # Sums depend on how many threads share them, of which there are as many as cores at the start of a process.
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "2"}

    def forking(folder, *more: str) -> subprocess.Popen:
        program = [sys.executable, "-c", FORKS.format(root=str(ROOT)), *train_flags(records, folder, *flags, *more)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=null, text=True, bufsize=1, env=environment)

    forks = forking(output)

    def start() -> int:
        forks.stdin.write("\n")
        return int(forks.stdout.readline())

    def done() -> int:
        if not (output / "checkpoints" / "state.json").exists():
            return 0
        progress = resume.load(str(output))
        return progress.epochs * steps + progress.step

    draw = random.Random(time.time_ns())
    found = []
    for goal in sorted(draw.sample(range(epochs * steps - 20), kills)):
        child = start()
        while done() < goal:
            os.kill(child, 0)  # an error where it is no more
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert int(forks.stdout.readline()) == signal.SIGKILL, "the training ended before it was killed"
        found.append(done())
    start()
    assert int(forks.stdout.readline()) == 0
    forks.communicate()
    assert len(set(found)) > kills // 3, found

    alone, _ = forking(whole, "--checkpoint-minutes", "0").communicate("\n")
    assert int(alone.split()[1]) == 0
    for row, expected in zip(history(output), history(whole), strict=True):
        assert row | {"seconds_per_step": 0} == expected | {"seconds_per_step": 0}
    name = f"checkpoints/epoch-{epochs:04d}.npz"
    assert_same_checkpoint(output / name, whole / name)


@pytest.mark.parametrize("change", ["replaced", "removed"])
@pytest.mark.parametrize("moment", ["within an epoch", "at its end"])
def test_nothing_is_kept_of_steps_on_records_that_another_command_has_changed(
    change, moment, whole, tmp_path, tiny_network, monkeypatch, capsys
):
    records, output = tmp_path / "records", tmp_path / "model"
    draw_records(records)
    seen = []

    def due(_):
        seen.append(len(seen))
        if len(seen) == 5:  # in the second epoch
            (records / "dataset.json").unlink()
            if change == "replaced":
                save_dataset(str(records), replace(dataset, fingerprint="another"))
        return len(seen) == 5 and moment == "within an epoch"

    dataset = load_dataset(str(records))
    monkeypatch.setattr(Checkpoints, "due", due)
    assert cli.main(train_flags(records, output, *SHORT)) == 2
    assert f"the records in {records} were changed by another command" in capsys.readouterr().err
    assert state(output) == (1, 0, "epoch-0001.npz")
    save_dataset(str(records), dataset)
    assert cli.main(train_flags(records, output, *SHORT)) == 0
    assert_same_checkpoint(output / "checkpoints/epoch-0002.npz", whole / "checkpoints/epoch-0002.npz")


def test_a_shard_that_is_gone_by_the_validation_is_named_with_the_cure(tmp_path, tiny_network, monkeypatch, capsys):
    records = tmp_path / "records"
    draw_records(records)
    monkeypatch.setattr(Checkpoints, "due", lambda _: [path.unlink() for path in records.glob("val-*")] and False)
    assert cli.main(train_flags(records, tmp_path / "model", *SHORT)) == 2
    assert re.search(r"a shard in .* is gone \(.*val-00000.*; put it back, or run", capsys.readouterr().err)


def test_too_little_memory_for_a_checkpoint_is_not_called_damage(whole, monkeypatch):
    progress = resume.load(str(whole))
    arrays = np.load(whole / "checkpoints" / state(whole)[2])
    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")  # of JAX
    variables = {
        key: mock.Mock(shape=value.shape, assign=mock.Mock(side_effect=full)) for key, value in arrays.items()
    }
    monkeypatch.setattr(resume, "_variables", lambda network, progress: variables)
    with pytest.raises(InputError, match="not enough memory for the network"), enough_memory("the network", "..."):
        resume.restore(str(whole), None, progress)
    next(iter(variables.values())).shape = (3, 1, 4)
    with pytest.raises(InputError, match="in another shape than this model has; train from scratch"):
        resume.restore(str(whole), None, progress)
