"""Checks, before anything is sent, for what would make the job fail or never start.

Every function returns sentences, so that all problems can be reported at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from pipelines import __version__
from pipelines.runner import accelerators
from pipelines.submit import forms
from pipelines.submit.options import JobOptions
from pipelines.submit.plan import BEAM_FLAGS, Job, environment, own_flags, read_command
from trainer import leases, storage
from trainer.files import cloud
from trainer.formats import tuning
from trainer.formats.cards import CARD, TRAINING, TUNING_FILE
from trainer.formats.dataset import check_shards, load_dataset
from trainer.formats.exports import SAVED_MODEL
from trainer.options import WEB, CheckedOptions, InputError, public
from trainer.parser import did_you_mean, flags_of
from trainer.startup import check_backend, quiet_startup
from trainer.train.options import least_batch
from trainer.weights.catalog import CATALOG, IMAGENET

PATHS = ("DIR", "FILE", "PATH", "PATH|NAME")
"""Metavars of flags whose values are paths."""
IMAGE = re.compile(
    r"(?!.*//)[a-z0-9][a-z0-9.-]*(:\d+/)?[a-z0-9._/-]*(?<!/)(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?"
)
_KIND = "gpu|cpu|deeplab|trainer|release|version"
VERSION = re.compile(rf"(?:(?:{_KIND})[-_]?)*v?(\d{{1,2}}\.\d+\.\d+(?=[-_.+]|$)|\d\.\d+(?=(?:[-_](?:{_KIND}))*$)).*")
"""Tags that can only mean a version of this program: 0.27.0-cuda, gpu-0.27.0, v0.27. Not cuda-12.4.1 or 24.04."""
OURS = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?!\.?\d)")


def problems(options: JobOptions, job: Job, flags: list[str]) -> list[str]:
    """All problems of a job, in the order in which to fix them.

    Args:
      flags: Beam's flags among those of the job's command.

    Raises:
      Unavailable: storage does not answer, so the job cannot be checked.
    """
    sentences = [
        *_image(job.image),
        *forms.malformed(options),
        *forms.too_many(options),
        *_machines(options, job),
        *_hosts(options, job),
        *_spot(options, job),
        *_beam(job, flags),
    ]
    if job.options is not None:
        sentences += _far(_paths(job.options))
        looks = (_inputs, _records, _model, _crf, _output, _folder)
        sentences += [sentence for look in looks for sentence in _faults(look, job)]
    return list(dict.fromkeys(sentences))


def doubts(job: Job) -> Iterator[str]:
    """Warnings about what may be intended."""
    if job.image and "@" not in job.image and not _version(job.image):
        yield (
            f"--image {job.image}: its tag names no version; make sure that it has {__version__}, as this machine does"
        )
    output = job.options.output
    if job.command == "tune-crf":
        output = output or storage.join(job.options.model, TUNING_FILE)
        work = output.removesuffix(".json") + tuning.WORK
        held = [leases.path_of_file(output), storage.join(work, leases.FILE)]
    else:
        held = [storage.join(output, leases.FILE)]
    if any(map(storage.exists, held)):
        yield f"{output} is being written by another job, or by one that was killed; this job will wait and see"
    if job.command == "train" and job.options.resume and (epochs := _trained(output)) >= job.options.epochs:
        # Under poly, a resumed training with other epochs is refused.
        more = f"start another with --init-from {output}" if job.options.schedule == "poly" else "raise --epochs"
        yield f"{output} has finished its {epochs} epochs, so this job has nothing left to do; to train on, {more}"
    if flag := _anew(job):
        yield (
            f"with {flag}, {job.command} starts from scratch whenever the job is restarted; to have it resume, "
            f"omit {flag} and give an --output of its own"
        )
    if not job.gpus:
        yield "no GPUs: neither --accelerator nor the machine type names any"


def _trained(output: str) -> int:
    """The epochs that the training in a model folder has finished; 0 if there is none."""
    try:
        return len(storage.json_object(storage.read(storage.join(output, TRAINING))).get("history") or ())
    except (OSError, TypeError):  # the latter if it is damaged, which the job says
        return 0


def _faults(look: Callable[[Job], Iterable[str]], job: Job) -> Iterator[str]:
    """The problems that `look` finds in a command's files, and the error that ends it."""
    try:
        yield from look(job)
    except (InputError, OSError) as error:
        yield str(error)


def _version(image: str) -> str:
    """The version that the tag of an image names, such as 0.27.0 or 0.27; "" if none."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    if OURS.search(tag):
        return __version__
    named = VERSION.fullmatch(tag)
    return named[1] if named else ""


def _image(image: str) -> Iterator[str]:
    if not image:
        yield "--image is missing: the trainer image of the Dockerfile, pushed to a registry that the job can read"
    elif not IMAGE.fullmatch(image):
        yield (
            f"--image {public(image)} is not the name of an image; expected REGISTRY/PATH:TAG, in lower case and "
            "without https://"
        )
    elif (version := _version(image)) and not f"{__version__}.".startswith(f"{version}."):
        yield (
            f"--image {image} is of version {version}, and this is {__version__}; push an image of this version, or "
            f"run deeplab {version} here"
        )


def _machines(options: JobOptions, job: Job) -> Iterator[str]:
    region = getattr(options, "region", None)
    is_region = bool(region and forms.REGION.fullmatch(region))
    if region is not None and not job.machine_type:
        yield "--machine-type is missing: Vertex AI needs one, such as g2-standard-8"
    if region == "":
        yield "--region is missing: where to run the job, such as europe-west4; best that of the buckets"
    if not options.unlisted:
        wrong = accelerators.unknown(job.machine_type)
        wrong += accelerators.misfits(job.machine_type, job.accelerator, job.gpus) if job.accelerator else []
        wrong += accelerators.missing_in(region, job.accelerator) if is_region and job.accelerator else []
        yield from (f"{sentence} (if that has changed: --unlisted)" for sentence in wrong)


def _hosts(options: JobOptions, job: Job) -> Iterator[str]:
    backend = environment(options).get("KERAS_BACKEND", "")
    if job.hosts > 1 and job.command != "train":
        yield f"--count {job.hosts}: {job.command} runs on one host; give it a machine with more GPUs"
    elif job.options is not None and job.command == "train":
        unfit = [*_faults(_together, job)] if job.hosts > 1 else []
        yield from unfit or filter(None, [_batch(job, backend)])
    if job.hosts > 1 and backend != "jax":
        yield "--env KERAS_BACKEND: several hosts train under jax; leave it out, or set it to jax"
    elif backend not in ("", "jax", "tensorflow"):
        yield f"--env KERAS_BACKEND={backend}: the trainer image has tensorflow and jax; give one of these"


def _anew(job: Job) -> str:
    """The flag with which the command, started again, does not resume; "" for none."""
    options = job.options
    if job.command == "train" and not options.resume:
        return "--no-resume"
    return "--overwrite" if job.command == "segment" and options.overwrite else ""


def _spot(options: JobOptions, job: Job) -> Iterator[str]:
    if options.spot and job.options is not None and (flag := _anew(job)):
        yield (
            f"--spot: with {flag}, {job.command} would start from scratch whenever its machine is taken away; omit "
            f"{flag} and give an --output of its own, or omit --spot"
        )


def _batch(job: Job, backend: str) -> str:
    """The reason why `train` would refuse its batch, as its own check says it once the model is built; "" if none."""
    batch, parts, devices = job.options.batch_size, job.options.accumulate, max(1, job.gpus) * job.hosts
    shares = devices * parts
    least = 1 if job.options.freeze_bn else least_batch(devices, parts, backend)
    if not batch % shares and batch >= least:
        return ""
    if shares == 1:
        return f"--batch-size {batch} leaves one image per GPU, of which batch norms cannot learn; give 2 or more"
    by = [f"{devices} GPUs"] * (devices > 1) + [f"{parts} parts"] * (parts > 1)
    multiple = -(-least // shares) * shares
    return f"--batch-size {batch} is shared by {' and '.join(by)}; give a multiple of {shares}, at least {multiple}"


def _together(job: Job) -> Iterable[str]:
    """Checks that the command accepts the flags of one of several hosts; raises InputError if not."""
    read_command((*job.words, *own_flags(job.hosts, 0, "first:1")))
    return ()


def _beam(job: Job, flags: list[str]) -> Iterator[str]:
    """Words that are neither flags of Beam's for one machine nor their values, and values that these do not take."""
    words, given, unfit = [*flags], [], []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        next_flag = "--" if name in BEAM_FLAGS else "-"
        if name.startswith("-") and not equals and words and not words[0].startswith(next_flag):
            value = words.pop(0)
        if name in BEAM_FLAGS:
            given.append((name, value))
        elif not name.startswith("-"):
            unfit.append(word)
        else:
            unfit.append(name + did_you_mean(name, [*BEAM_FLAGS, *flags_of(type(job.options))]))
    if unfit:
        yield (
            f"deeplab {job.command} does not know {', '.join(unfit)}; of Beam's flags a job on one machine takes "
            f"{' and '.join(BEAM_FLAGS)}"
        )
    for name, value in given:
        pattern, shape = BEAM_FLAGS[name]
        if not re.fullmatch(pattern, value):
            yield f"{name} {value}: expected {shape}"


def _paths(options: CheckedOptions) -> dict[str, str]:
    """Flag -> path, for the flags that are paths; names of published weights and web addresses are not."""
    paths = {}
    for field in dataclasses.fields(options):
        value, is_web = getattr(options, field.name), field.metadata["web"]
        if field.metadata["metavar"] not in PATHS or not value:
            continue
        is_name = field.metadata["metavar"] == "PATH|NAME" and (value == IMAGENET or value in CATALOG)
        if not is_name and not (is_web and WEB.match(value)):
            paths[options.flag(field.name)] = value
    return paths


def _far(paths: dict[str, str]) -> Iterator[str]:
    for flag, path in paths.items():
        if storage.is_remote(path):
            continue
        if flag == "--output":
            yield f"{flag} {path} would be lost with the job's machine; give a gs:// address"
        else:
            yield (
                f"{flag} {path} is a local path, which the job's machines cannot see; copy it with `gcloud storage "
                "cp --recursive` and give its gs:// address"
            )


def _inputs(job: Job) -> Iterator[str]:
    """Inputs that do not exist; records and models are checked further by others."""
    for flag, path in _paths(job.options).items():
        if flag not in ("--output", "--records", "--model") and storage.is_remote(path) and not _is_there(path):
            yield f"{flag} {path} does not exist"


def _is_there(path: str) -> bool:
    """Whether a path is an existing file, folder or checkpoint, or a glob with a match."""
    if storage.is_dir(path) or storage.exists(path) or storage.exists(f"{path}.index"):
        return True
    return storage.is_pattern(path) and next(storage.matching(path), None) is not None


def _records(job: Job) -> Iterator[str]:
    folder = getattr(job.options, "records", "")
    if not storage.is_remote(folder):
        return
    dataset = load_dataset(folder)
    splits = ("train", "val") if job.command == "train" else (job.options.split or "val",)
    yield from (
        f"--records {folder} has no split {split}; it has {', '.join(dataset.splits)}"
        for split in splits
        if split not in dataset.splits
    )
    check_shards(folder, dataset)


def _model(job: Job) -> Iterator[str]:
    """Problems of the model to run; the weights that `train` starts from are among the `_inputs`."""
    model = getattr(job.options, "model", "")
    if model.endswith(".onnx"):
        yield f"--model {model} would run on the machine's processors; give the model folder, or a SavedModel"
    elif storage.is_remote(model):
        names = (CARD,) if job.command == "tune-crf" else (CARD, SAVED_MODEL)
        paths = [storage.join(model, name) for name in names]
        if not any(map(storage.exists, paths)):
            yield f"--model {model} holds no model: {' or '.join(names)} is missing"


def _crf(job: Job) -> Iterator[str]:
    """Problems of the CRF that `segment` is to use."""
    options = job.options
    if job.command != "segment":
        return
    if options.crf_engine == "pydensecrf":
        yield "--crf-engine pydensecrf is not in the trainer image; leave it out"
    if options.crf == "auto" and storage.is_remote(options.model) and tuning.load(options.model) is None:
        yield f"--crf auto: {tuning.how_to_make(options.model)}, or give --crf on or off"


def _output(job: Job) -> Iterator[str]:
    """Problems of the output: its bucket does not exist, it is one of the inputs, or a file of another command."""
    output = job.options.output
    for flag, path in _paths(job.options).items() if job.command == "segment" else ():  # train checks that itself
        if flag != "--output" and storage.real(path) == storage.real(output):
            yield f"--output {output} is also {flag}; give another --output"
    if job.command == "tune-crf":
        yield from _tuned(output or storage.join(job.options.model, TUNING_FILE))
    if output and storage.is_remote(output):
        try:
            cloud.is_folder(output)
        except FileNotFoundError:
            yield f"--output {output}: there is no such bucket; make it with `gcloud storage buckets create`"


def _tuned(path: str) -> Iterator[str]:
    """The reason why `tune-crf` would not write to `path`: a file is there that it did not write, as dataset.json."""
    if storage.is_remote(path) and storage.exists(path):
        try:
            tuning.Tuning.from_json(storage.read_json(path))
        except InputError:
            yield f"{path} was not written by `deeplab tune-crf`; move it away, or give another --output"


def _folder(job: Job) -> Iterable[str]:
    """Problems of the model folder, by `train`'s own checks; a new or empty one needs none."""
    options = job.options
    if job.command == "train" and storage.is_remote(options.output) and storage.is_dir(options.output):
        check_backend()
        with quiet_startup():
            from trainer.train.command import find_progress  # with TensorFlow

        find_progress(options, load_dataset(options.records))
    return ()
