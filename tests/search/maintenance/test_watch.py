"""Watching folders: what changes is in the index soon; what is temporary or gone for all is not."""

import shutil
import threading
import time

import pytest

from opengte.search.ingest.pipeline import IngestOptions
from opengte.search.maintenance import watch
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb", "watchdog")
pytestmark = pytest.mark.slow
PATIENCE = 90.0  # seconds; machines may be slow, and the tests wait no longer than they must


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"text of {name}")
    return folder


@pytest.fixture
def base(tmp_path):
    return helpers.kb(tmp_path)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def watching(base, files, reports):
    watcher = watch.Watcher(base, [str(files)], IngestOptions(), reports.append)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    until(lambda: len(ids(base)) == 2)
    yield watcher
    watcher.stop()
    thread.join()


def ids(base):
    return sorted(one.id for one in base.store.scan())


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "the index did not follow"
        time.sleep(0.1)


def test_changes_are_followed(base, files, watching, reports):
    (files / "c.txt").write_text("text of c")
    (files / "sub").mkdir()
    (files / "sub" / "d.txt").write_text("text of d")
    (files / ".hidden.txt").write_text("not read")
    (files / "~$c.txt").write_text("not read")
    (files / "photo.jpg").write_bytes(b"not read")
    until(lambda: len(ids(base)) == 4)
    (files / "b.txt").rename(files / "e.txt")
    (files / "a.txt").unlink()
    (files / "sub").rename(files / "other")
    (files / "gone.tmp").write_text("x")
    (files / "gone.tmp").unlink()
    wanted = ["files/c.txt", "files/e.txt", "files/other/d.txt"]
    until(lambda: ids(base) == wanted)
    (files / "c.txt").write_text("another text")
    until(lambda: base.store.fetch(["files/c.txt"])["files/c.txt"].text == "another text")
    assert ids(base) == wanted
    assert not any(report.problems for report in reports)


def test_a_folder_that_vanishes_removes_nothing_and_is_watched_when_it_is_back(
    base, files, watching, reports, tmp_path
):
    files.rename(tmp_path / "away")
    until(lambda: any(report.problems for report in reports))
    assert len(ids(base)) == 2
    (tmp_path / "away" / "c.txt").write_text("text of c")
    shutil.move(tmp_path / "away", files)
    until(lambda: len(ids(base)) == 3)
    (files / "d.txt").write_text("text of d")
    until(lambda: len(ids(base)) == 4)


def test_changes_wait_until_they_are_quiet_but_not_for_ever():
    changes = watch.Changes()
    changes.add("/x/a", 0.0)
    changes.add("/x/b", 0.5)
    assert changes.take(0.9) == []
    assert changes.take(1.2) == ["/x/a"]
    for step in range(1, 21):
        changes.add("/x/b", 0.5 * step)
        assert changes.take(0.5 * step) == []
    changes.add("/x/b", 10.5)
    assert changes.take(10.5) == ["/x/b"]
    assert watch.outermost(["/x/a/b", "/x/a", "/x/ab"]) == ["/x/a", "/x/ab"]


def test_hidden_paths_and_indexes_are_not_watched(tmp_path):
    (tmp_path / "kb" / "lance").mkdir(parents=True)
    (tmp_path / "kb" / "opengte-kb.json").write_text("")
    tops = [str(tmp_path)]
    assert watch.is_watched(str(tmp_path / "a" / "b.txt"), tops)
    assert watch.is_watched(str(tmp_path), tops)
    for name in ("a/.git/x", "kb/lance/x", ".x.swp", "node_modules/x"):
        assert not watch.is_watched(str(tmp_path / name), tops)
    assert not watch.is_watched("/elsewhere/x", tops)
