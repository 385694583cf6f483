"""Archives with checkpoints: of one, of several, damaged, and small ones that claim much."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc

import pytest

from tests.drawn.checkpoints import mobilenet_variables, write_checkpoint
from trainer.options import InputError
from trainer.weights import archives
from trainer.weights.checkpoints import Checkpoint


@pytest.mark.parametrize(
    ("case", "message"),
    [("empty", "holds 0 checkpoints"), ("cut", "cannot be unpacked"), ("text", "cannot be unpacked"),
     ("large", "takes over 100 bytes"), ("missing", "not found")],
)  # fmt: skip
def test_an_archive_without_a_checkpoint_is_refused(case, message, archive, tmp_path, monkeypatch):
    path = tmp_path / "weights.tar.gz"
    if case == "empty":
        tarfile.open(path, "w:gz").close()
    elif case != "missing":
        path.write_bytes({"cut": archive[0][:9999], "text": b"no archive", "large": archive[0]}[case])
    if case == "large":
        monkeypatch.setattr("trainer.weights.archives.MAX_UNPACKED", 100)
    with pytest.raises(InputError, match=message):
        Checkpoint(str(path))


def packed(folder, *places: str) -> str:
    """An archive with a checkpoint at each of the places; returns its path."""
    write_checkpoint(folder / "model.ckpt", mobilenet_variables(3))
    with tarfile.open(folder / "weights.tar.gz", "w:gz") as file:
        for place in places:
            for part in sorted(folder.glob("model.ckpt*")):
                file.add(part, part.name.replace("model.ckpt", place))
    return str(folder / "weights.tar.gz")


@pytest.mark.parametrize("places", [("early/model.ckpt", "late/model.ckpt"), ("a.ckpt", "b.ckpt")])
def test_an_archive_of_two_checkpoints_is_refused_with_their_names(places, tmp_path):
    with pytest.raises(
        InputError, match=f"holds 2 checkpoints: {', '.join(places)}; expected one; unpack it and give the path of one"
    ):
        Checkpoint(packed(tmp_path, *places))


def test_what_macos_puts_beside_the_files_of_an_archive_is_no_checkpoint(tmp_path):
    source = Checkpoint(packed(tmp_path, "./x/._model.ckpt", "./x/model.ckpt", "__MACOSX/x/._model.ckpt"))
    assert "aspp0/weights" in source.shapes


def test_a_member_may_leave_out_its_zeros(archive, tmp_path):
    """GNU's tar packs the holes of sparse files so."""
    with tarfile.open(fileobj=io.BytesIO(archive[0])) as file:
        files = {member.name: file.extractfile(member).read() for member in file if member.size}
    with tarfile.open(tmp_path / "weights.tgz", "w:gz", format=tarfile.PAX_FORMAT) as file:
        for name, data in files.items():
            packed = f"2\n0\n{len(data) - 1}\n{len(data) - 1}\n1\n".encode()
            member = tarfile.TarInfo(name)
            member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
            member.pax_headers["GNU.sparse.realsize"] = str(len(data))
            packed = packed.ljust(512, b"\0") + data
            member.size = len(packed)
            file.addfile(member, io.BytesIO(packed))
    assert archives.unpack(str(tmp_path / "weights.tgz"), str(tmp_path)) == str(tmp_path / "model.ckpt-30000")
    assert all((tmp_path / name.rpartition("/")[2]).read_bytes() == data for name, data in files.items())


SIZE = 64 << 20


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


BOMBS = {
    "long name": lambda: header(tarfile.GNUTYPE_LONGNAME, SIZE) + b"a" * SIZE,
    "pax": lambda: header(tarfile.XHDTYPE, SIZE) + b"9" * SIZE,
    "many": lambda: header(tarfile.REGTYPE, 0) * 50_000,
    "behind a member with holes": lambda: (
        header(tarfile.GNUTYPE_SPARSE, 0) + header(tarfile.GNUTYPE_LONGNAME, SIZE) + b"a" * SIZE
    ),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_headers_are_not_read_into_memory_whatever_size_they_claim(bomb, tmp_path):
    path = tmp_path / "weights.tar.gz"
    path.write_bytes(gzip.compress(bomb(), 1))
    tracemalloc.start()
    try:
        with pytest.raises(
            InputError, match=r"weights.tar.gz cannot be unpacked \(its headers take over 1,048,576 byt"
        ):
            archives.unpack(str(path), str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_members_that_overlap_are_not_read_for_ever(tmp_path):
    data = bytearray(header(tarfile.REGTYPE, 0))
    data[124:136] = b"\xff" * 10 + b"\xfe\0"  # -512 bytes
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:]) + 8 * 32)
    (tmp_path / "weights.tar.gz").write_bytes(gzip.compress(header(tarfile.REGTYPE, 0) + data))
    with pytest.raises(InputError, match=r"cannot be unpacked \(its members overlap\)"):
        archives.unpack(str(tmp_path / "weights.tar.gz"), str(tmp_path))
