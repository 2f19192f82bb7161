"""Digests of files: of every byte, read once, and never of a file that is no longer there."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from opengte.hub import digests, disk

OLD = time.time() - 3600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was read to the end."""
    read, original = [], digests.read_digest

    def counted(path: Path) -> digests.FileDigest:
        read.append(path)
        return original(path)

    monkeypatch.setattr(digests, "read_digest", counted)
    return read


def write(path: Path, content: bytes, modified: float = OLD) -> Path:
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def digest(path: Path) -> str:
    return digests.file_digests([path])[0].sha256


def test_a_file_is_read_once(tmp_path: Path, cache: Path, reads: list[Path]) -> None:
    paths = [write(tmp_path / name, name.encode() * 5000) for name in "abc"]
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    for _ in range(2):
        assert [found.sha256 for found in digests.file_digests([*paths, paths[0]])][:3] == expected
        assert sorted(reads) == paths
    assert [path.name for path in cache.iterdir()] == ["digests.json"]


def test_every_way_to_change_a_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"old")
    seen = [digest(path)]
    write(path, b"new", OLD + 1)  # of the same size
    seen.append(digest(path))
    os.replace(write(tmp_path / "b", b"odd", OLD + 1), path)  # of the same size and time
    seen.append(digest(path))
    write(path, b"own", OLD + 1)  # in place, with the time put back
    seen.append(digest(path))
    write(path, b"longer", OLD + 1)
    seen.append(digest(path))
    assert len(set(seen)) == 5
    link = tmp_path / "link"
    link.symlink_to(path)
    assert digest(link) == seen[-1]
    link.unlink()
    link.symlink_to(write(tmp_path / "other", b"other!"))
    assert digest(link) == hashlib.sha256(b"other!").hexdigest()


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    path = write(tmp_path / "a", b"x", time.time())
    assert digest(path) == digest(path)
    assert len(reads) == 2
    write(path, b"x", time.time() + 3600)  # a clock that is wrong is no reason to read for ever
    assert digest(path) == digest(path)
    assert len(reads) == 3


def test_a_file_that_is_written_meanwhile_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, original = write(tmp_path / "a", b"x"), hashlib.file_digest

    def slow(file, name):
        found = original(file, name)
        write(path, b"y", OLD + 1)
        return found

    monkeypatch.setattr(hashlib, "file_digest", slow)
    (found,) = digests.file_digests([path])
    assert found.sha256 == "" and found.state == digests.FileState.of(path)
    monkeypatch.undo()
    assert digest(path) == hashlib.sha256(b"y").hexdigest()


@pytest.mark.parametrize("record", ["", "[]", '{"PATH": 7}', '{"PATH": ["x", 1, 2, 3, 4]}', "{"])
def test_a_damaged_record_is_replaced(tmp_path: Path, cache: Path, record: str) -> None:
    path = write(tmp_path / "a", b"x")
    cache.mkdir()
    (cache / "digests.json").write_text(record.replace("PATH", str(path)))
    assert digest(path) == hashlib.sha256(b"x").hexdigest()
    assert json.loads((cache / "digests.json").read_text())[str(path)][0] == digest(path)


def test_the_record_is_bounded_and_need_not_be_there(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MOST", 3)
    paths = [write(tmp_path / str(i), b"x") for i in range(5)]
    for path in paths:
        digest(path)
    assert list(json.loads((cache / "digests.json").read_text())) == [str(p) for p in paths[2:]]
    monkeypatch.setenv("OPENGTE_CACHE", str(paths[0] / "no" / "folder"))
    assert digest(paths[1]) == hashlib.sha256(b"x").hexdigest()


def test_a_verified_blob_is_named_by_its_digest(tmp_path: Path, reads: list[Path]) -> None:
    name = hashlib.sha256(b"x").hexdigest()
    blob = write(tmp_path / name, b"x")
    snapshot = tmp_path / "model.safetensors"
    snapshot.symlink_to(blob)
    disk.verify_file(snapshot, "it", None, name)
    assert digest(snapshot) == name and not reads
    write(blob, b"y", OLD + 1)  # damaged since
    assert digest(snapshot) == hashlib.sha256(b"y").hexdigest()
