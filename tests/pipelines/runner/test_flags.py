"""Beam's flags: what is read from them, and what is refused before a job is sent anywhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
from apache_beam.options.pipeline_options import DirectOptions

from pipelines.prepare.options import Options
from pipelines.runner.flags import (
    beam_options,
    cores_per_process,
    is_local,
    located,
    runner_name,
    shares_this_machine,
    workers,
)
from trainer.limits import cores
from trainer.options import CheckedOptions, InputError, option

PYTHON = "python{}.{}".format(*sys.version_info)
DATAFLOW = ["--runner", "DataflowRunner", "--project", "p", "--region", "r", "--temp_location", "gs://b/tmp"]
CLOUD = [*DATAFLOW, "--sdk_container_image", f"image:{PYTHON}"]
PROCESS = ["--environment_type", "PROCESS", "--environment_config", '{"command": "/boot"}']
PORTABLE = ["--runner", "PortableRunner", "--job_endpoint", "h:8099"]


def test_processes_of_one_machine_share_its_cores():
    threads, processes = [], ["--direct_running_mode", "multi_processing", "--direct_num_workers", "2"]
    assert cores_per_process(beam_options(threads)) == 0 and workers(beam_options(threads)) == cores()
    assert cores_per_process(beam_options(processes)) == max(1, cores() // 2) and workers(beam_options(processes)) == 2
    assert workers(beam_options(CLOUD)) > 1


@pytest.mark.parametrize("flags", [[], ["--runner", "DirectRunner"], ["--runner=FnApiRunner"]])
def test_local_runs_use_threads_on_every_core(flags):
    options = beam_options(flags)
    direct = options.view_as(DirectOptions)
    assert is_local(options)
    assert direct.direct_running_mode == "multi_threading"
    assert direct.direct_num_workers == cores()


def test_what_the_user_says_of_local_workers_stands():
    direct = beam_options(["--direct_num_workers=3", "--direct_running_mode", "in_memory"]).view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (3, "in_memory")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--direct_num_wrokers", "2"], "--direct_num_wrokers (did you mean --direct_num_workers?)"),
        (["--direct-num-workers", "2"], "did you mean --direct_num_workers?"),
        (["--zzqx=1", "--zzqy"], "--zzqx, --zzqy"),
        (["--copeis", "2"], "--copeis (did you mean --copies?)"),
        (["--jpeg_qualty=2"], "--jpeg_qualty (did you mean --jpeg-quality?)"),
        (["--overlay"], "unknown arguments: --overlay;"),
        (["stray"], "unknown arguments: stray"),
        (["--direct_num_workers", "two"], "invalid int value: 'two'"),
        (["--direct_num_workers", "-1"], "must be 0 (all cores) or more, got -1"),
        (["--direct_running_mode", "fast"], "invalid choice: 'fast'"),
        (["--runner", "DaskRunner"], "silently drops outputs"),
        (
            ["--runner", "Flinky"],
            "Flinky is not a runner of this program (did you mean FlinkRunner?); expected Direct",
        ),
        (["--runner", "prismruner"], "(did you mean PrismRunner?); expected DirectRunner, PrismRunner, FlinkRunner,"),
        (["--runner", "BundleBasedDirectRunner"], "BundleBasedDirectRunner is not a runner of this program"),
        (
            ["--runner", "InteractiveRunner"],
            "InteractiveRunner is not a runner of this program; expected DirectRunner",
        ),
        (["--runner", "TestDataflowRunner"], "TestDataflowRunner is not a runner of this program (did you mean Dataf"),
        (["--runner", "KafkaStreamsRunner"], "KafkaStreamsRunner is not a runner of this program"),
        (["--runner", "my.module.MyRunner"], "my.module.MyRunner is not a runner of this program; expected"),
        (["--runner", "my.module.FlinkRunner"], "(did you mean FlinkRunner?)"),
        (["--runner", "PortableRunner", "--environment_type", "LOOPBACK"], "needs --job_endpoint HOST:PORT, of a job"),
        (["--cancel"], "--cancel is for remote jobs; give their --runner too"),
        (["--no_wait"], "--no_wait is for remote jobs"),
        (["--worker_accelerator", "nvidia-l4"], "--worker_accelerator is for --runner DataflowRunner"),
    ],
)
def test_flags_that_cannot_be_used_are_named(flags, said):
    with pytest.raises(InputError) as error:
        beam_options(flags, Options(input="set", output="records"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ("direct", "directrunner"),
        ("Prism", "prismrunner"),
        ("FLINKRUNNER", "flinkrunner"),
        ("apache_beam.runners.portability.flink_runner.FlinkRunner", "flinkrunner"),
    ],
)
def test_a_runner_has_the_names_that_beam_gives_it(named, name):
    options = beam_options(["--runner", named])
    assert runner_name(options) == name and is_local(options) is (name == "directrunner")


@pytest.mark.parametrize(
    ("flags", "shares"),
    [
        ([], True),
        (["--runner", "PrismRunner"], True),
        (["--runner", "PrismRunner", *PROCESS], False),
        (["--runner", "FlinkRunner"], True),
        (["--runner", "FlinkRunner", "--flink_master", "h:8081", *PROCESS], False),
        (["--runner", "SparkRunner"], True),
        ([*PORTABLE, "--environment_type", "LOOPBACK"], True),
        ([*PORTABLE, "--environment_type", "EXTERNAL", "--environment_config", "h:9"], False),
        (CLOUD, False),
    ],
)
def test_workers_are_here_or_elsewhere(flags, shares):
    assert shares_this_machine(beam_options(flags)) is shares


@dataclass(frozen=True)
class Paths(CheckedOptions):
    input: str = option(help="what is read", positional=True, metavar="DIR")
    masks: tuple[str, ...] = option((), "what is read too")
    output: str | None = option(None, "where it goes")


CLUSTER = [*PORTABLE, *PROCESS]


@pytest.mark.parametrize("flags", [[], CLUSTER, ["--runner", "PrismRunner"]])
def test_workers_get_absolute_paths(flags, tmp_path, monkeypatch):
    """They may have another working directory."""
    monkeypatch.chdir(tmp_path)
    here = f"{tmp_path}/"
    paths = located(beam_options(flags), Paths(input="set", masks=("a:b//c", "gs://b/m")), "input", "masks", "output")
    assert paths == Paths(input=here + "set", masks=(here + "a:b/c", "gs://b/m"))
    assert located(beam_options(flags), Paths(input="./../x", output="/out"), "output") == Paths(
        input="./../x", output="/out"
    )


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (Paths(input="set"), "DIR set is a local path, which workers on Dataflow cannot see"),
        (Paths(input="gs://b/set", masks=("gs://b/m", "/m")), "--masks /m is a local path"),
        (
            Paths(input="set"),
            "copy the files to Cloud Storage (`gcloud storage cp --recursive`) and give a gs:// address",
        ),
        (
            Paths(input="gs://b/set", output="out"),
            "--output out is a local path, which workers on Dataflow cannot see; g",
        ),
        (Paths(input="gs://b/set", output="out.txt"), "--output out.txt is a local path"),
    ],
)
def test_paths_of_this_machine_are_refused_for_dataflow(paths, said):
    with pytest.raises(InputError) as error:
        located(beam_options(CLOUD), paths, "input", "masks", "output")
    assert said in str(error.value)


def test_paths_that_dataflow_finds_are_accepted():
    """A list is read here; what it names may lie there."""
    paths = Paths(input="gs://b/set", masks=("images.csv",), output="gs://b/out")
    assert located(beam_options(CLOUD), paths, "input", "output") == paths
    located(beam_options(CLOUD), paths, "masks")


def test_a_local_job_has_a_worker_for_each_core_that_it_may_use(monkeypatch):
    monkeypatch.setattr("pipelines.runner.flags.cores", lambda: 3)
    assert workers(beam_options([])) == workers(beam_options(["--direct_num_workers", "0"])) == 3


@pytest.mark.parametrize("runner", [[], ["--runner", "DirectRunner"], CLOUD, ["--runner", "SparkRunner"]])
@pytest.mark.parametrize(
    ("flag", "of"),
    [
        (["--flink_master", "h:8081"], "FlinkRunner or PortableRunner"),
        (["--flink_master=h:8081"], "FlinkRunner or PortableRunner"),
        (["--prism_location", sys.executable], "PrismRunner"),
    ],
)
def test_a_flag_of_another_engine_is_refused_not_ignored(runner, flag, of):
    with pytest.raises(InputError, match=rf"{flag[0][:10]}\w* is for --runner {of}, .*; give that runner, or omit"):
        beam_options([*runner, *flag])


def test_prism_that_is_no_program_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "prism").write_text("no program")
    cure = f"; if it is Beam's prism, make it executable: chmod \\+x {tmp_path}/prism$"
    for path, end in ((tmp_path / "prism", cure), (tmp_path / "none", "of one$"), (tmp_path, "of one$")):
        with pytest.raises(InputError, match=rf"--prism_location .* is not a program; expected Beam's prism.*{end}"):
            beam_options(["--runner", "PrismRunner", "--prism_location", str(path)])
    (tmp_path / "prism").chmod(0o755)
    beam_options(["--runner", "PrismRunner", "--prism_location", str(tmp_path / "prism")])


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_a_jar_that_is_none_is_refused_before_anything_is_read(tmp_path, engine):
    (tmp_path / "x.jar").write_text("no jar")
    for path in (tmp_path / "x.jar", tmp_path / "none.jar"):
        with pytest.raises(
            InputError, match=f"--{engine}_job_server_jar {path} is not a jar; expected Beam's job server"
        ):
            beam_options(["--runner", f"{engine}Runner", f"--{engine}_job_server_jar", str(path)])
    beam_options(["--runner", f"{engine}Runner", f"--{engine}_job_server_jar", "https://maven/x.jar"])
