"""The steps of `deeplab train`: load records, build or resume, train epoch by epoch, keep the best."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer import leases, metrics, startup, storage
from trainer.formats.cards import CARD, WEIGHTS, ModelCard, load_card, weights_digest
from trainer.formats.dataset import DATASET_FILE, Dataset, check_unchanged, load_dataset
from trainer.network.folder import save_model
from trainer.network.inference import predictor
from trainer.network.windows import windowed
from trainer.options import InputError, as_flags, public, to_json
from trainer.terminal import printable, some_and_more
from trainer.train import hosts, resume
from trainer.train import model as models
from trainer.train.diagnosis import Diagnosis, diagnose, names_of, report
from trainer.train.epoch import (
    Validation,
    enough_memory,
    steps_per_epoch,
    train_epoch,
    try_largest,
    validate,
    validation_batch_size,
)
from trainer.train.history import HISTORY, LOGS, Logs, epoch_line, history_csv, history_row, in_order, summary
from trainer.train.interrupts import Interrupts, Terminated
from trainer.train.optimizer import adjust_learning_rate
from trainer.train.options import RECIPES, Options
from trainer.train.resume import Checkpoints, Progress
from trainer.train.steps import LossError, Pace, Steps
from trainer.train.streams import (
    TrainingStream,
    largest_image,
    readable_records,
    validation_records,
    validation_stream,
)


def run(options: Options, flags: list[str]) -> int:
    """Runs the command. Returns 0; 1 if the loss became NaN or infinite; that of `Terminated` after SIGTERM."""
    try:
        with Interrupts() as interrupts, hosts.joined(options) as joined:
            return _run(joined, interrupts)
    except Terminated as error:
        what_next = str(error) or "run the same command again to resume"
        print(f"deeplab train: terminated; {what_next}", file=sys.stderr)
        return error.status


def _run(options: Options, interrupts: Interrupts) -> int:
    if options.recipe:
        print(recipe_line(options))
    for text in options.without_effect():
        print(f"warning: {text}")
    startup.start_tensorflow()
    dataset = load_dataset(options.records)
    if options.host_id == 0:
        # Before the training there is looked at: this may wait for another command, which ends it.
        leases.acquire(options.output, "train")
        check_places(options.output)
    options, progress = find_progress(options, dataset)
    hosts.check_same(progress, options)
    validation = validation_stream(options.records, dataset, validation_batch_size(options, dataset))
    stream = TrainingStream(options.records, dataset, options)
    check_labels(options, dataset)
    if progress.best_epoch:
        check_best(options.output, progress)
    if not is_finished(options, progress):
        progress = train(options, dataset, stream, validation, progress, interrupts)
    if progress is None:
        return 1
    resume.sweep(options.output, progress, HISTORY)
    if progress.epochs < options.epochs:
        print(f"stopped early: {progress.stale_epochs} epochs without a better validation Jaccard")
    print(f"{summary(progress)}\nmodel: {options.output}")
    return 0


def recipe_line(options: Options) -> str:
    """A line with the recipe, its flags, and the given flags that override it."""
    recipe = RECIPES[options.recipe]
    values = {name: getattr(options, name) for name in recipe}
    changes = {name: value for name, value in values.items() if value != recipe[name]}
    return f"recipe {options.recipe}: {as_flags(recipe)}" + (f"; here {as_flags(changes)}" if changes else "")


def check_labels(options: Options, dataset: Dataset) -> None:
    """Prints warnings about the labels. Raises InputError if a split has none, or there is one class only."""
    palette = dataset.palette
    if palette.num_classes < 2:
        raise InputError(
            f"{options.records}: the palette {palette.name} has one class, {', '.join(palette.names)}, so there is "
            "nothing to tell apart; prepare the set again with a palette that also has a class for the rest, such as "
            "background"
        )
    for split in ("train", "val"):
        pixels, ignored = dataset.pixels(split)
        if ignored and not any(pixels):
            raise InputError(
                f"{options.records}: the split {split} has no pixel of any class, all are ignored; prepare the set "
                "again with other labels, or with the --palette they were made with"
            )
        for doubt in dataset.doubts(split):
            print(f"warning: {printable(doubt)}")


def check_places(output: str) -> None:
    """Raises InputError if a folder is in the place of a file that is to be written, or a file in that of a folder."""
    for name in (WEIGHTS, CARD, HISTORY):
        storage.check_file(storage.join(output, name))
    storage.check_folder(storage.join(output, LOGS))
    resume.check_places(output)


def find_progress(options: Options, dataset: Dataset) -> tuple[Options, Progress]:
    """The options and the progress of the training in the output folder, or those of a new one.

    Raises:
      InputError: the folder holds another training, or a model without its training.
    """
    stored = None if options.overwrite and not options.resume else resume.load(options.output)
    if stored is None or stored.is_new or not options.resume:
        check_output(options, is_training=stored is not None)
        return options, fresh_progress(options, dataset)
    given, options = options, resume.with_original_defaults(options, stored)
    if options != given:
        print(f"resuming with the defaults of the version that began it: {as_flags(stored.older)}")
    fresh = fresh_progress(options, dataset)
    changes = resume.changes(options.output, stored, fresh)
    if changes:
        print(f"resuming with other options: {'; '.join(changes)}")
    history = tuple(in_order(row, dataset.palette.names) for row in stored.history)
    return options, dataclasses.replace(stored, options=fresh.options, classes=fresh.classes, history=history)


def fresh_progress(options: Options, dataset: Dataset) -> Progress:
    """The progress of a training before its first step."""
    return Progress(to_json(options), dataset.fingerprint, classes=tuple(dataset.palette.names))


def check_output(options: Options, is_training: bool) -> None:
    """Raises InputError if a new training would replace its own input, or files that no training wrote.

    Args:
      is_training: whether the output folder is that of a training.
    """
    source, output = options.init_from, options.output
    if source and storage.lies_in(source, output) and storage.lies_in(output, source):
        raise InputError(f"--output {output} is the model of --init-from and would be replaced; give another --output")
    if storage.exists(storage.join(output, DATASET_FILE)):
        raise InputError(f"--output {output} is a folder of records; give the model a folder of its own")
    names = [name for name in (WEIGHTS, CARD, HISTORY) if storage.exists(storage.join(output, name))]
    names += resume.arrays(output)[:1]
    if names and not is_training and not options.overwrite:
        raise InputError(
            f"{output} holds {' and '.join(names)}, but no training to resume: `deeplab train` did not write them, or "
            "their checkpoints/ are gone; choose another --output, or --overwrite to replace them"
        )


def is_finished(options: Options, progress: Progress) -> bool:
    return 0 < options.early_stopping <= progress.stale_epochs or progress.epochs >= options.epochs


def check_best(folder: str, progress: Progress) -> None:
    """Writes history.csv again if it is gone or was changed. Raises InputError if the best model is, or is damaged."""
    try:
        load_card(folder)
        weights_digest(folder)
    except InputError as error:
        raise InputError(
            f"the training in {folder} has lost the model of its best epoch, {progress.best_epoch} of "
            f"{progress.epochs}: {error}; put the file back, or give --no-resume to train again"
        ) from None
    path, rows = storage.join(folder, HISTORY), history_csv(progress.history)
    if not storage.exists(path) or storage.read(path) != rows:
        storage.write(path, rows)


def build(options: Options, dataset: Dataset, progress: Progress, steps: int) -> keras.Model:
    """The compiled model in the state of `progress`; for a new training, loads and reports the initial weights.

    Args:
      steps: steps per epoch.
    """
    model, imported = models.build(options, dataset.palette), None
    if options.init_from and progress.is_new:
        imported = models.load_initial(model, options, dataset.palette)
        print(f"weights of {public(options.init_from)}: {imported}")
    models.compile_model(model, options, dataset.palette, options.epochs * steps)
    if imported and (names := models.frozen_at_random(model, imported)):
        print(
            f"warning: newly initialised layers are frozen and will not learn: {some_and_more(names, 6)}; give "
            "--no-freeze-bn, or an earlier layer for --freeze-until, to train them"
        )
    if not progress.is_new:
        resume.restore(options.output, model, progress)
        within = f"step {progress.step} of {steps} in epoch {progress.epochs + 1}" if progress.step else ""
        print(f"resuming after {within or f'epoch {progress.epochs}'} of {options.epochs}")
    return model


def train(
    options: Options,
    dataset: Dataset,
    stream: TrainingStream,
    validation: tf.data.Dataset,
    progress: Progress,
    interrupts: Interrupts,
) -> Progress | None:
    """Trains from `progress` on, with checkpoints within and after epochs.

    Returns:
      The progress at the end; None if the loss became NaN or infinite.

    Raises:
      Terminated, KeyboardInterrupt: the training was interrupted, after a checkpoint.
    """
    total = steps_per_epoch(options, dataset)
    keras.utils.set_random_seed(options.seed)
    with models.precision(options.precision), models.strategy().scope():
        with enough_memory(
            "the network", "end other programs that hold memory of the GPU, or take a smaller --backbone"
        ):
            model = build(options, dataset, progress, total)
            network = models.for_validation(model, options, dataset.palette)
        validated = validator(options, dataset, network, validation)
        logs, pace = Logs(options.output, replaces=progress.is_new and resume.is_there(options.output)), Pace()
        is_same = functools.partial(check_unchanged, options.records, dataset)
        checkpoints = Checkpoints(options.output, model, progress, options.checkpoint_minutes, is_same, logs.begin)
        while not is_finished(options, progress):
            title = f"epoch {progress.epochs + 1}/{options.epochs}"
            steps = Steps(progress, title, total, checkpoints, interrupts, stream.waited.numpy)
            row = take_steps(options, stream, steps)
            if row is None:
                return None
            models.copy_weights(model, network)
            result = interruptible(validated, steps)
            pace += steps.pace
            confusion = hosts.of_first(result.confusion, options.hosts)
            scores = metrics.scores(confusion, dataset.palette.names)
            progress = progress.after(history_row(row, scores))
            print(epoch_line(progress, options.epochs))
            log = functools.partial(logs.add, overlays=result.overlays)
            keep_epoch(options, dataset, checkpoints, progress, scores, log)
            interrupts.check(f"epoch {progress.epochs} is kept")
    if pace.steps:
        print(pace)
    return progress


def take_steps(options: Options, stream: TrainingStream, steps: Steps) -> dict[str, Any] | None:
    """Takes the remaining steps of an epoch, as `train_epoch` does; None if the loss became NaN or infinite."""
    place = (steps.progress.epochs + 1, steps.total, steps.progress.step)
    with readable_records(options.records, stream.dataset, functools.partial(stream.records, *place)):
        try:
            row = train_epoch(stream.epoch(*place), steps)
            steps.check()
        except LossError as error:
            cause = explain(options, stream, steps.checkpoints.last, error, steps.interrupts)
            print(f"deeplab train: error: {cause}", file=sys.stderr)
            return None
    return row


def interruptible(run: Callable[[], Validation], steps: Steps) -> Validation:
    """Runs the validation, which may be interrupted anywhere; a checkpoint of the training is then written."""
    try:
        with steps.interrupts.at_once():
            return run()
    except (KeyboardInterrupt, Terminated) as error:
        steps.interrupts.waiting = steps.interrupts.raised = None  # a second Ctrl-C waits for the checkpoint
        steps.keep()
        steps.interrupts.waiting = type(error)
        steps.interrupts.check(steps.kept)
        raise


def keep_epoch(
    options: Options,
    dataset: Dataset,
    checkpoints: Checkpoints,
    progress: Progress,
    scores: dict[str, Any],
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Writes the output of the last epoch, which has these scores."""
    checkpoints.check()
    # Not before this, so that an earlier error leaves the previous training in place.
    checkpoints.begin(progress)
    if progress.best_epoch == progress.epochs:
        save_best(options, dataset, checkpoints.model, scores, progress.epochs)
    adjust_learning_rate(options, checkpoints.model, progress)
    log(progress.history[-1])
    storage.write(storage.join(options.output, HISTORY), history_csv(progress.history))
    # Comes last: if the command is killed before it, the epoch is repeated and writes the same files again.
    checkpoints.write(progress)


def validator(
    options: Options, dataset: Dataset, network: keras.Model, stream: tf.data.Dataset
) -> Callable[[], Validation]:
    """Checks that the largest image fits; returns a function that validates the network in its current state."""
    predict = windowed(predictor(network, "ids"))
    records = functools.partial(validation_records, options.records, dataset)
    readable = functools.partial(readable_records, options.records, dataset, records)
    if validation_batch_size(options, dataset) == 1:  # smaller images take less than a training step
        with readable():
            largest = largest_image(options.records, dataset)
        try_largest(predict, largest)

    def run() -> Validation:
        with readable():
            return validate(predict, stream, dataset)

    return run


def explain(
    options: Options, stream: TrainingStream, start: Progress, error: LossError, interrupts: Interrupts
) -> str:
    """A report on the first values that became NaN or infinite, found by repeating the steps since `start`."""
    total = steps_per_epoch(options, stream.dataset)
    with interrupts.at_once():
        if options.hosts == 1:
            what = _what_came(error, start.epochs + 1, total)
            print(f"{what}; to see why, the steps since the last checkpoint are taken again")
            diagnosis = repeat_steps(options, stream, start, error.step)
        else:
            diagnosis = Diagnosis(error.step, "not looked for, as several hosts train")
        place = place_of(start.epochs + 1, total, diagnosis.step)
        _, labels = next(stream.epoch(*place).as_numpy_iterator())
        records = [data for _, data in itertools.islice(stream.records(*place), options.batch_size)]
    diagnosis = dataclasses.replace(diagnosis, step=place[-1] + 1)
    return report(options, stream.dataset.palette, place[0], error.loss, diagnosis, names_of(records), labels)


def _what_came(error: LossError, epoch: int, total: int) -> str:
    if error.step > total:
        return f"step {total} of epoch {epoch} left weights that are NaN or infinite"
    return f"{error} of epoch {epoch}"


def place_of(epoch: int, total: int, step: int) -> tuple[int, int, int]:
    """The arguments of `TrainingStream.epoch` for what begins with `step` of `epoch`.

    The step behind the last of an epoch is the first of the next. It is asked for where the last spoilt the weights.
    """
    further, done = divmod(step - 1, total)
    return epoch + further, total, done


def repeat_steps(options: Options, stream: TrainingStream, start: Progress, step: int) -> Diagnosis:
    """The diagnosis of `step`, the first whose loss is NaN or infinite, by repeating the steps from `start` on."""
    epoch, total = start.epochs + 1, steps_per_epoch(options, stream.dataset)
    keras.utils.set_random_seed(options.seed)
    model = build(options, stream.dataset, start, total)
    never = Checkpoints(options.output, model, start)
    steps = Steps(start, f"to step {step}", step - 1, never, Interrupts(), stream.waited.numpy)
    try:
        train_epoch(stream.epoch(epoch, total, start.step), steps)
        return diagnose(model, step, next(stream.epoch(*place_of(epoch, total, step)).as_numpy_iterator()))
    except (LossError, InputError, MemoryError, tf.errors.ResourceExhaustedError):
        return Diagnosis(step)


def save_best(options: Options, dataset: Dataset, model: keras.Model, scores: dict[str, Any], epoch: int) -> None:
    """Writes the model folder with the current weights, those of `epoch`."""
    card = ModelCard(
        architecture=models.architecture(options, dataset.palette),
        palette=dataset.palette,
        max_side=dataset.max_side,
        training=to_json(options) | {"epoch": epoch},
        data_fingerprint=dataset.fingerprint,
        scores=scores,
    )
    save_model(options.output, model, card)
