"""The cores and the memory that a process may use."""

from __future__ import annotations

import os

import pytest

from trainer import limits

GIB = 1 << 30


def forget() -> None:
    """What a new process begins with: it has not asked yet."""
    limits.cores.cache_clear()
    limits.memory.cache_clear()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Bounds this process: takes the lines of its groups, and the contents of files below the folder of groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256 * GIB // 4096}.get)

    def bound(groups: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(groups)
        for path, contents in files.items():
            file = tmp_path / "groups" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(contents)
        monkeypatch.setattr(limits, "OWN", tmp_path / "cgroup")
        monkeypatch.setattr(limits, "TREE", tmp_path / "groups")

    forget()
    yield bound
    forget()


SLURM = "system.slice/slurmstepd.scope/job_7"
DOCKER = "4:memory:/docker/af3\n3:cpuset:/docker/af3\n2:cpu,cpuacct:/docker/af3\n0::/docker/af3\n"


UNBOUNDED = 64, 256
PERIOD = {"cpu/cpu.cfs_period_us": "100000\n"}
CASES = {
    "no groups": ("0::/\n", {}, UNBOUNDED),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, UNBOUNDED),
    "the top is its own": ("0::/\n", {"cpu.max": "400000 100000\n", "memory.max": f"{8 * GIB}\n"}, (4, 8)),
    "a core and a half": ("0::/\n", {"cpu.max": "150000 100000"}, (2, 256)),
    "a part of a core": ("0::/\n", {"cpu.max": "5000 100000"}, (1, 256)),
    "more than there is": ("0::/\n", {"cpu.max": "9900000 100000", "memory.max": f"{999 * GIB}"}, UNBOUNDED),
    "a group above its own": (
        f"0::/{SLURM}/step_0/user/task_0\n",
        {
            f"{SLURM}/cpu.max": "800000 100000",
            f"{SLURM}/memory.max": f"{16 * GIB}",
            f"{SLURM}/step_0/memory.max": "max",
            "system.slice/memory.max": f"{99 * GIB}",
            "other.slice/memory.max": "9",
        },
        (8, 16),
    ),
    "version 1 in a container": (
        DOCKER,
        {"cpu/cpu.cfs_quota_us": "200000\n", **PERIOD, "memory/memory.limit_in_bytes": f"{2 * GIB}\n"},
        (2, 2),
    ),
    "version 1, a group below the top": (
        "2:cpu,cpuacct:/job\n4:memory:/job\n0::/else\n",
        {
            "cpu/job/cpu.cfs_quota_us": "300000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "memory/job/memory.limit_in_bytes": f"{3 * GIB}",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
        (3, 3),
    ),
    "version 1, no limit": (DOCKER, {"cpu/cpu.cfs_quota_us": "-1", **PERIOD}, UNBOUNDED),
    "a group outside the container": ("0::/../..\n", {"cpu.max": "max 100000"}, UNBOUNDED),
    "lines of another form": ("nonsense\n", {"cpu.max": "200000 100000", "memory.max": f"{GIB}"}, (2, 1)),
    "unreadable": ("", {"memory.max": "", "cpu.max": "nonsense"}, UNBOUNDED),
}


@pytest.mark.parametrize(("groups", "files", "expected"), CASES.values(), ids=CASES)
def test_control_groups_bound_cores_and_memory(machine, groups, files, expected):
    machine(groups, files)
    assert (limits.cores(), limits.memory() / GIB) == expected


def test_cores_and_memory_are_the_machines_where_there_are_no_control_groups(machine, tmp_path, monkeypatch):
    """As on macOS, where no process is bound to cores either."""
    machine("", {})
    (tmp_path / "cgroup").unlink()
    assert (limits.cores(), limits.memory()) == (64, 256 * GIB)
    monkeypatch.delattr(os, "sched_getaffinity")
    forget()
    assert limits.cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    forget()
    assert limits.cores() == 1


def test_the_groups_are_read_once_in_a_process(machine):
    machine("0::/\n", {"cpu.max": "400000 100000", "memory.max": f"{8 * GIB}"})
    assert (limits.cores(), limits.memory()) == (4, 8 * GIB)
    machine("0::/\n", {"cpu.max": "200000 100000", "memory.max": f"{2 * GIB}"})
    assert (limits.cores(), limits.memory()) == (4, 8 * GIB)
    forget()
    assert (limits.cores(), limits.memory()) == (2, 2 * GIB)
