"""What a run embeds, writes and removes: only what it must, and never what it may not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opengte.errors import InputError
from opengte.search.ingest import pipeline, writer
from opengte.search.ingest.pipeline import IngestOptions
from opengte.search.kb import KnowledgeBase
from opengte.search.parse.base import ParseLimits, RowFields
from opengte.search.parse.walk import INDEX_MARKER
from tests.support import kb as helpers
from tests.support.fake_models import FakeEncoder
from tests.support.installed import needs

needs("lancedb")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("# Red cats\n\nA red cat eats grass.")
    (folder / "b.txt").write_text("A blue dog sleeps by the river.")
    (folder / "sub" / "c.txt").write_text("The tax law of the house.")
    return folder


@pytest.fixture
def base(tmp_path):
    return helpers.kb(tmp_path)


@pytest.fixture
def embedded(monkeypatch):
    """Every text that was embedded as a document."""
    texts: list[str] = []
    original = FakeEncoder.embed

    def embed(self, given, **options):
        if options.get("role") == "document":
            texts.extend(given)
        return original(self, given, **options)

    monkeypatch.setattr(FakeEncoder, "embed", embed)
    return texts


def counts(report):
    names = ("files", "new", "changed", "unchanged", "removed", "embedded")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def ids(base):
    return sorted(os.path.basename(one.id) for one in base.store.scan())


def test_documents_that_did_not_change_are_not_embedded_again(base, files, embedded):
    assert counts(base.index([files])) == {"files": 3, "new": 3, "embedded": 3}
    before = len(embedded)
    assert counts(base.index([files])) == {"files": 3, "unchanged": 3}
    os.utime(files / "a.md", (1, 1))  # another time, the same bytes
    (files / "b.txt").write_text("A blue dog sleeps in the house.")
    assert counts(base.index([files])) == {"files": 3, "changed": 1, "unchanged": 2, "embedded": 1}
    assert embedded[before:] == ["A blue dog sleeps in the house."]


def test_a_document_that_moved_keeps_its_vectors(base, files, embedded):
    base.index([files])
    before = len(embedded)
    (files / "b.txt").rename(files / "moved.txt")
    (files / "copy.md").write_text((files / "a.md").read_text())
    report = base.index([files])
    assert counts(report) == {"files": 4, "new": 2, "unchanged": 2, "removed": 1}
    assert embedded[before:] == []
    assert ids(base) == ["a.md", "c.txt", "copy.md", "moved.txt"]


def test_new_metadata_alone_embeds_nothing(base, files, embedded):
    (files / "a.md").write_text("---\nyear: 1\n---\nText.")
    base.index([files])
    before = len(embedded)
    (files / "a.md").write_text("---\nyear: 2\n---\nText.")
    assert counts(base.index([files])) == {"files": 3, "changed": 1, "unchanged": 2}
    assert embedded[before:] == []
    assert base.store.fetch(["files/a.md"])["files/a.md"].metadata["year"] == 2


def test_what_is_gone_is_removed_inside_the_scope_only(base, files, tmp_path):
    base.index([files])
    other = tmp_path / "other"
    other.mkdir()
    (other / "d.txt").write_text("Another text.")
    assert base.index([other]).removed == 0
    assert ids(base) == ["a.md", "b.txt", "c.txt", "d.txt"]
    (files / "a.md").unlink()
    (files / "sub" / "c.txt").unlink()
    assert base.index([files / "sub"], IngestOptions(allow_empty=True)).removed == 1
    assert ids(base) == ["a.md", "b.txt", "d.txt"]
    assert base.index([files], IngestOptions(keep=True)).removed == 0
    assert base.index([files]).removed == 1
    assert ids(base) == ["b.txt", "d.txt"]


def test_rows_that_are_gone_from_a_file_are_removed(base, files):
    path = files / "rows.jsonl"
    path.write_text('{"id": "x", "text": "one"}\n{"id": "y", "text": "two"}\n')
    base.index([path])
    path.write_text('{"id": "y", "text": "two"}\n{"id": "z", "text": "three"}\n')
    assert counts(base.index([path])) == {
        "files": 1,
        "new": 1,
        "changed": 1,
        "removed": 1,
        "embedded": 1,
    }
    assert ids(base) == ["rows.jsonl#y", "rows.jsonl#z"]


def test_a_dry_run_tells_all_and_does_nothing(base, files):
    base.index([files])
    (files / "a.md").unlink()
    (files / "b.txt").write_text("Other words.")
    (files / "new.txt").write_text("New words.")
    before = base.store.health()
    dry = base.index([files], IngestOptions(dry_run=True))
    assert base.store.health() == before
    real = base.index([files])
    for report in (dry, real):
        assert report.vanished == [str(files / "a.md")]
    assert counts(dry) == {key: n for key, n in counts(real).items() if key != "embedded"}


def test_a_file_that_cannot_be_read_any_more_keeps_its_documents(base, files):
    path = files / "rows.json"
    path.write_text('{"text": "readable"}')
    base.index([files])
    path.write_text("broken")
    report = base.index([files])
    assert [place for place, _ in report.problems] == [str(path)]
    assert report.removed == 0
    assert "rows.json" in ids(base)
    assert list(base.problems())[0][1].startswith("not JSON")


def test_failures_are_listed_again_but_not_read_again(base, files, monkeypatch):
    (files / "bad.json").write_text("broken")
    first = base.index([files])
    parsed = []
    original = pipeline.ParserProcess.parse
    monkeypatch.setattr(
        pipeline.ParserProcess,
        "parse",
        lambda self, *a: (parsed.append(a[0]), original(self, *a))[1],
    )
    second = base.index([files])
    assert first.problems == second.problems
    assert parsed == []
    base.index([files], IngestOptions(retry=True))
    assert [os.path.basename(path) for path in parsed] == ["bad.json"]


def test_one_bad_file_does_not_stop_the_others(base, files):
    (files / "big.txt").write_text("x" * 1000)
    (files / "empty.txt").write_text(" \n")
    (files / "photo.jpg").write_bytes(b"\xff\xd8")
    (files / "binary.txt").write_bytes(b"a\0b")
    report = base.index([files], IngestOptions(limits=ParseLimits(file_bytes=500)))
    reasons = {os.path.basename(place): reason for place, reason in report.problems}
    assert reasons == {
        "big.txt": "larger than 500 bytes",
        "binary.txt": "binary, though its name says that it is text",
    }
    assert report.new == 3
    assert {os.path.basename(place): reason for place, reason in report.skipped} == {
        "empty.txt": "no text",
        "photo.jpg": "unknown format (.jpg)",
    }


def test_every_path_ends_as_indexed_unchanged_or_named_with_a_reason(base, files, tmp_path):
    """kb/12: of `10 left out` nobody could say which."""
    (files / ".hidden").write_text("hidden")
    (files / "__pycache__").mkdir()
    (files / "photo.jpg").write_bytes(b"\xff\xd8")
    (files / "empty.csv").write_text("")
    (files / "rows.jsonl").write_text('{"id": "x", "text": ""}\n{"id": "y", "text": "two"}\n')
    (files / "broken.json").write_text("broken")
    (files / "gone").symlink_to(tmp_path / "nowhere")
    report = base.index([files])
    ends = {
        "a.md": "",
        "b.txt": "",
        "c.txt": "",
        ".hidden": "hidden",
        "__pycache__": "a folder of a tool",
        "photo.jpg": "unknown format (.jpg)",
        "empty.csv": "no text",
        "rows.jsonl#x": "no text",
        "rows.jsonl#y": "",
        "broken.json": "not JSON",
        "gone": "a broken link",
    }
    listed = {os.path.basename(one.place): one for one in base.problems()}
    assert set(ids(base)) == {name for name, reason in ends.items() if not reason}
    assert {name: one.reason.split(":")[0] for name, one in listed.items()} == {
        name: reason for name, reason in ends.items() if reason
    }
    assert {one.kind for one in listed.values()} == {"failed", "skipped"}
    assert (report.files, report.skipped_files) == (5, 3)
    assert sorted(base.index([files]).skipped) == sorted(report.skipped)
    assert report.skipped == base.index([files], IngestOptions(dry_run=True)).skipped
    (files / "photo.jpg").unlink()
    (files / "rows.jsonl").unlink()
    base.index([files])
    assert {name for name in listed if "photo" in name or "rows" in name} == {
        "photo.jpg",
        "rows.jsonl#x",
    }
    assert not [one for one in base.problems() if "photo" in one.place or "rows" in one.place]


def test_a_file_that_becomes_readable_is_read(base, files):
    """A skipped path is looked at again by every run."""
    path = files / "data"
    path.mkdir()
    (path / INDEX_MARKER).write_text("{}")
    (path / "x.txt").write_text("A hidden word.")
    assert [reason for _, reason in base.index([files]).skipped] == ["an index"]
    (path / INDEX_MARKER).unlink()
    assert base.index([files]).new == 1
    assert not list(base.problems())


def test_rows_of_the_same_id_are_all_kept_and_told(base, files):
    (files / "r.jsonl").write_text('{"id": "x", "text": "one"}\n{"id": "x", "text": "two"}\n')
    report = base.index([files / "r.jsonl"])
    assert report.problems == [(f"{files / 'r.jsonl'}:2", "its id is not the first")]
    assert ids(base) == ["r.jsonl#x", "r.jsonl#x~2"]


def test_other_fields_of_rows_are_read_anew(base, files):
    path = files / "r.jsonl"
    path.write_text('{"id": "x", "text": "one", "body": "two"}\n')
    base.index([path])
    report = base.index([path], IngestOptions(fields=RowFields(("body",))))
    assert counts(report) == {"files": 1, "changed": 1, "embedded": 1}


def test_names_with_any_bytes_are_indexed(base, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for name in (b"new\nline.txt", b"caf\xe9.txt", b"100%#.txt", "日本.txt".encode()):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"text of " + name.replace(b"\xe9", b"e"))
    assert base.index([tmp_path / "odd"]).new == 4
    assert counts(base.index([tmp_path / "odd"])) == {"files": 4, "unchanged": 4}
    os.unlink(folder + b"/caf\xe9.txt")
    assert base.index([tmp_path / "odd"]).removed == 1


def test_small_batches_change_nothing(tmp_path, files, monkeypatch):
    (files / "r.jsonl").write_text("".join(f'{{"text": "row {n} red"}}\n' for n in range(23)))
    whole = helpers.kb(tmp_path, "whole")
    whole.index([files])
    monkeypatch.setattr(writer, "BATCH_DOCUMENTS", 3)
    parts = helpers.kb(tmp_path, "parts")
    report = parts.index([files])
    assert report.new == 26
    for a, b in zip(whole.store.scan(), parts.store.scan(), strict=True):
        object.__setattr__(a, "indexed", b.indexed)
        helpers.same(a, b)
    assert counts(parts.index([files])) == {"files": 4, "unchanged": 26}


def test_texts_under_ids_of_ones_own(base):
    report = base.add(["A red cat.", "A blue dog."], ["x", "y"], metadata=[{"n": 1}, {"n": 2}])
    assert (report.new, report.removed) == (2, 0)
    assert base.add(["A red cat.", "Else."], ["x", "y"], metadata=[{"n": 1}, {"n": 2}]).changed == 1
    base.delete(["x"])
    assert ids(base) == ["y"]
    with pytest.raises(InputError, match="2 texts came with 1 ids"):
        base.add(["a", "b"], ["x"])
    with pytest.raises(InputError, match="the same id twice"):
        base.add(["a", "b"], ["x", "x"])


def test_an_index_inside_what_is_indexed_is_left_alone(files):
    base = helpers.kb(files)
    assert base.index([files]).new == 3
    assert base.index([files]).unchanged == 3


def test_places_that_are_no_place_for_an_index(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        helpers.kb(tmp_path, "file")
    with pytest.raises(InputError, match="holds other files"):
        helpers.kb(tmp_path, "full")
    with pytest.raises(InputError, match="is not an index"):
        KnowledgeBase.open(tmp_path / "full")
    helpers.kb(tmp_path, "kb")
    with pytest.raises(InputError, match="is an index already"):
        helpers.kb(tmp_path, "kb")
    with pytest.raises(InputError, match="does not exist"):
        KnowledgeBase.open(tmp_path / "kb").index([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "precision 'int8', the index has 'fp32'"),
        ({"model": "other"}, "fingerprint 'other', the index has 'fake'"),
        ({"max_length": 12}, "max length 12, the index has 16"),
    ],
)
def test_another_model_is_refused_with_the_command_that_helps(tmp_path, settings, message):
    helpers.kb(tmp_path)
    other = helpers.encoder(settings.pop("model", "minilm"), **settings)
    with pytest.raises(InputError, match=message) as caught:
        KnowledgeBase.open(tmp_path / "kb", other)
    assert "--model fake --precision fp32 --max-length 16" in caught.value.__notes__[0]
    assert "--to NEW" in caught.value.__notes__[1]


LOOP = """
import sys
from opengte.search.ingest import writer as commits
from opengte.search.kb import KnowledgeBase
from tests.support.kb import WordEncoder
commits.BATCH_DOCUMENTS = 4
place, files = sys.argv[1:]
encoder = WordEncoder.load("minilm")
base = KnowledgeBase.open(place, encoder)
print("ready", flush=True)
base.index([files], notify=lambda *_: print(base.store.count(), flush=True))
print("done", flush=True)
"""


def start(place, files):
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, str(place), str(files)],
        env={**os.environ, "PYTHONPATH": paths, "FAKE_DELAY": "0.005"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_twenty_times_it_loses_nothing_and_repeats_nothing(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for n in range(160):
        (files / f"{n:03}.txt").write_text(
            f"document {n} about {helpers.WORDS[n % len(helpers.WORDS)]}"
        )
    base = helpers.kb(tmp_path)
    least = 0
    for kill in range(20):
        with start(tmp_path / "kb", files) as child:
            assert child.stdout.readline() == "ready\n"
            committed = least
            deadline = time.monotonic() + 0.05 + 0.02 * kill
            while time.monotonic() < deadline:
                line = child.stdout.readline().strip()
                if not line.isdigit():
                    break
                committed = int(line)
            child.send_signal(signal.SIGKILL)
            child.communicate()
        documents = [one.id for one in KnowledgeBase.open(tmp_path / "kb").store.scan()]
        assert len(documents) == len(set(documents)) >= committed
        least = len(documents)
    report = base.index([files])
    assert (report.new + report.unchanged, report.new) == (160, 160 - least)
    assert base.store.count() == 160
    assert base.store.health().windows == 160


@pytest.mark.slow
def test_three_processes_write_and_two_read(tmp_path):
    base = helpers.kb(tmp_path)
    folders = []
    for part in range(3):
        folder = tmp_path / f"files{part}"
        folder.mkdir()
        folders.append(folder)
        for n in range(40):
            (folder / f"{n}.txt").write_text(f"document {n} of part {part}")
    writers = [start(tmp_path / "kb", folder) for folder in folders]
    code = (
        "import sys\nfrom opengte.search.kb import KnowledgeBase\n"
        "from tests.support.kb import WordEncoder\n"
        "base = KnowledgeBase.open(sys.argv[1], WordEncoder.load('minilm'))\n"
        "seen = 0\n"
        "while seen < 120:\n"
        "    count = base.store.count()\n"
        "    assert count >= seen, (count, seen)\n"
        "    seen = count\n"
        "    base.search('document', 3)\n"
    )
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "kb")],
            env={**os.environ, "PYTHONPATH": paths},
        )
        for _ in range(2)
    ]
    outputs = [child.communicate(timeout=180)[0] for child in writers]
    assert [child.returncode for child in writers] == [0, 0, 0], outputs
    assert [child.wait(timeout=120) for child in readers] == [0, 0]
    documents = [one.id for one in base.store.scan()]
    assert len(documents) == len(set(documents)) == 120


def test_a_folder_that_may_not_be_written_is_an_error_and_still_answers(base, files, monkeypatch):
    base.index([files])
    table = base.store.table("windows")

    class ReadOnly:
        """A table whose disk is full."""

        def __getattr__(self, name):
            return getattr(table, name)

        def merge_insert(self, on):
            raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")

    monkeypatch.setitem(base.store._tables, "windows", ReadOnly())
    (files / "new.txt").write_text("New words.")
    with pytest.raises(OSError, match=r"cannot write to .*No space left on device"):
        base.index([files])
    monkeypatch.undo()
    assert len(base.search("red cat", 5).hits) == 3


def test_a_run_reports_as_json(base, files):
    from opengte.cli.index.run import report_row

    assert json.loads(json.dumps(report_row(base.index([files]))))["new"] == 3
