"""Which files a walk finds, and names that are ids."""

import os
import sys
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.search.parse import walk
from opengte.search.parse.walk import (
    INDEX_MARKER,
    FoundFile,
    SkippedPath,
    is_inside,
    path_to_id,
)


def names(folder, items):
    return [os.path.relpath(item.path, folder) for item in items if isinstance(item, FoundFile)]


def test_files_come_in_order_without_hidden_ones(tmp_path):
    for name in ["b.txt", "a.md", "sub/c.rst", ".git/d", "sub/.e", "__pycache__/f", "a2/g"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert names(tmp_path, walk.walk_files([str(tmp_path)])) == [
        "a.md",
        "b.txt",
        "a2/g",
        "sub/c.rst",
    ]


def test_a_cycle_of_links_is_entered_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    items = list(walk.walk_files([str(tmp_path)]))
    assert names(tmp_path, items) == ["a/x.txt"]
    reasons = [item.reason for item in items if isinstance(item, SkippedPath)]
    assert reasons == ["the same folder was reached before"] * 2


def test_what_is_no_file_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    index = tmp_path / "kb"
    index.mkdir()
    (index / INDEX_MARKER).write_text("{}")
    (index / "data.txt").write_text("x")
    reasons = {
        item.reason for item in walk.walk_files([str(tmp_path)]) if isinstance(item, SkippedPath)
    }
    assert reasons == {"not a regular file", "a broken link", "an index"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_has_failed(tmp_path):
    (tmp_path / "a").mkdir(mode=0)
    (item,) = walk.walk_files([str(tmp_path)])
    assert isinstance(item, SkippedPath)
    assert item.failed


@given(st.binary(max_size=40))
def test_every_path_has_one_id_and_back(content):
    path = os.fsdecode(content)
    made = path_to_id(path)
    made.encode()  # valid Unicode
    assert unquote_to_bytes(made) == content
    assert not any(character in made for character in "\n\r\t\0#")


def test_ids_of_plain_paths_are_the_paths():
    assert path_to_id("/home/müller/an #1 100%\n.txt") == "/home/müller/an %231 100%25%0A.txt"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_a_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.txt"
    with open(path, "wb") as file:
        file.write(b"x")
    (item,) = walk.walk_files([str(tmp_path)])
    assert path_to_id(item.path).endswith("/caf%E9%0A.txt")
    assert unquote_to_bytes(path_to_id(item.path)) == path


def test_scopes():
    assert is_inside("/a/b/c.txt", ["/a/b"])
    assert is_inside("/a/b", ["/a/b"])
    assert is_inside("/x", ["/"])
    assert not is_inside("/a/bc", ["/a/b"])
