"""Damage to an index: each kind is recognised, then mended or named; documents come back.

`pytest tests/search/maintenance/test_damage.py -s` prints the table of kinds.
"""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import opengte
from opengte.cli import main
from opengte.errors import DamagedIndexError, InputError
from opengte.search.kb import KnowledgeBase
from opengte.search.maintenance import check
from opengte.search.stores.lancedb import checksums, damage
from opengte.search.stores.lancedb.store import LanceStore
from tests.support import kb as helpers
from tests.support import stores
from tests.support.installed import needs

needs("lancedb")
WINDOWS, SOURCES, SETTINGS = (f"lance/{name}.lance" for name in ("windows", "sources", "settings"))
FILES = [f"files/{n:02}.txt" for n in range(12) if n != 3]
ADDED = ["added/1", "added/2", "added/3"]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def zero(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def forbid(path: Path) -> None:
    path.chmod(0)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00 not what was written\n")


def swap(path: Path) -> None:
    other = next(one for one in sorted(path.parent.iterdir()) if one != path)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def elsewhere(path: Path) -> None:
    path.write_text('{"current": "lance-gone", "previous": null}')


def newest(pattern: str):
    """Return what finds the largest file of a pattern."""
    return lambda place: max(place.glob(pattern), key=_size)


def live(table: str, kind: str):
    """Return what finds the largest file of a kind that the newest version of a table needs."""

    def find(place: Path) -> Path:
        folder = place / "lance"
        manifest = damage.newest_manifest(str(folder), table)
        if kind == "_versions":
            return folder / manifest
        needed = [x for one in damage.fragments(str(folder), manifest) for x in one.files]
        return max((folder / x for x in needed if f"/{kind}/" in x), key=_size)

    return find


def _size(path: Path) -> int:
    return path.stat().st_size


def path(name: str):
    return lambda place: place / name


DATA, MANIFEST = live("windows", "data"), live("windows", "_versions")
DELETION, INDEX = live("windows", "_deletions"), newest(f"{WINDOWS}/_indices/*/*")
COMMIT = newest(f"{WINDOWS}/_transactions/*")
KINDS = {
    "data: cut off": (DATA, truncate),
    "data: a bit flipped": (DATA, flip),
    "data: zeros": (DATA, zero),
    "data: empty": (DATA, empty),
    "data: deleted": (DATA, delete),
    "data: two files exchanged": (DATA, swap),
    "data: no permission": (DATA, forbid),
    "manifest: cut off": (MANIFEST, truncate),
    "manifest: a bit flipped": (MANIFEST, flip),
    "manifest: zeros": (MANIFEST, zero),
    "manifest: deleted": (MANIFEST, delete),
    "all manifests: deleted": (path(f"{WINDOWS}/_versions"), delete),
    "removed rows: cut off": (DELETION, truncate),
    "removed rows: a bit flipped": (DELETION, flip),
    "removed rows: deleted": (DELETION, delete),
    "search index: cut off": (INDEX, truncate),
    "search index: a bit flipped": (INDEX, flip),
    "search index: zeros": (INDEX, zero),
    "record of a commit: cut off": (COMMIT, truncate),
    "record of a commit: a bit flipped": (COMMIT, flip),
    "settings: cut off": (live("settings", "data"), truncate),
    "settings: a bit flipped": (live("settings", "data"), flip),
    "settings: deleted": (path(SETTINGS), delete),
    "settings, second copy: garbage": (path("lance/copies/settings.json"), garbage),
    "files: cut off": (live("sources", "data"), truncate),
    "files: a bit flipped": (live("sources", "data"), flip),
    "files: deleted": (path(SOURCES), delete),
    "documents: deleted": (path(WINDOWS), delete),
    "checksums: garbage": (path("lance/checksums.jsonl"), garbage),
    "checksums: deleted": (path("lance/checksums.jsonl"), delete),
    "mark: deleted": (path("opengte-kb.json"), delete),
    "mark: empty": (path("opengte-kb.json"), empty),
    "pointer: garbage": (path("generation.json"), garbage),
    "pointer: to nothing": (path("generation.json"), elsewhere),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An index of several commits, with removed rows, and documents that came from no file."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "files").mkdir()
    base = helpers.kb(folder)
    for n in range(12):
        (folder / "files" / f"{n:02}.txt").write_text(f"document {n} about alpha{n} " * (1 + n))
        if n % 4 == 3:
            base.index([folder / "files"])
    base.add([f"added text {n}" for n in (1, 2)], ADDED[:2])
    (folder / "files" / "03.txt").unlink()
    base.index([folder / "files"])
    base.add(["a third text"], ["added/3"])
    base.add(["a third text"], ["removed"])
    base.index([folder / "files"])  # compacts
    base.delete(["removed"])
    (folder / "kb" / "generation.json").write_text('{"current": "lance", "previous": null}')
    return folder


@pytest.fixture(scope="module")
def table():
    """What became of each kind; printed at the end."""
    rows: list[str] = []
    yield rows
    print("\n" + "\n".join(rows))  # noqa: T201


def load(identity):
    return helpers.encoder()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_recognised_and_mended(whole, table, tmp_path, kind):
    place = tmp_path / "kb"
    shutil.copytree(whole / "kb", place)
    find, harm = KINDS[kind]
    harm(find(place))
    found = KnowledgeBase.check(place, load=load, repair=False)
    assert found.damage, kind
    report = KnowledgeBase.check(place, load=load)
    assert report.damage == found.damage
    assert report.mended
    base = KnowledgeBase.open(place, helpers.encoder())
    there = sorted(one.id for one in base.store.scan())
    assert [one for one in there if one not in (*ADDED, "removed")] == FILES
    lost = [one for one in ADDED if one not in there]
    assert bool(lost) == bool(report.lost), report.lost
    for n in (0, 7, 11):
        assert base.search(f"alpha{n}").hits[0].id == f"files/{n:02}.txt"
    assert base.index([whole / "files"]).unchanged == len(FILES)
    assert KnowledgeBase.check(place, load=load).damage == []
    name, reason = report.damage[0]
    last = f"; {len(lost)} without a file lost" if lost else ""
    table.append(f"{kind:<34}{reason[:44]:<46}{report.mended[0][:60]}{last}")


def test_an_index_without_damage_has_none(whole, tmp_path):
    report = KnowledgeBase.check(whole / "kb", load=load)
    assert (report.damage, report.mended, report.lost) == ([], [], [])
    assert report.documents == 14
    assert report.files > 10


def test_what_cannot_be_mended_is_named(whole, tmp_path):
    place = tmp_path / "kb"
    shutil.copytree(whole / "kb", place)
    (place / "lance" / "copies" / "settings.json").write_text("{}")
    truncate(live("settings", "data")(place))
    with pytest.raises(DamagedIndexError, match="the settings of the index .* are lost"):
        KnowledgeBase.check(place)
    shutil.rmtree(place / "lance")
    with pytest.raises(DamagedIndexError, match="has lost its tables; index again: gte index"):
        KnowledgeBase.check(place)
    with pytest.raises(InputError, match="is not an index"):
        KnowledgeBase.check(tmp_path / "nowhere")


@pytest.mark.parametrize("harm", [truncate, delete])
def test_a_search_names_the_damage_in_one_line(whole, tmp_path, harm, monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", helpers.WordEncoder, raising=False)
    place = tmp_path / "kb"
    shutil.copytree(whole / "kb", place)
    harmed = DATA(place)
    harm(harmed)
    found = CliRunner().invoke(main, ["search", "alpha1", "--in", str(place)])
    assert found.exit_code != 0
    assert found.stderr.count("\n") == 1
    assert f"the index `{place}` is damaged: " in found.stderr
    assert harmed.name in found.stderr
    assert f"`gte index check {place}` mends it" in found.stderr
    if harm is truncate:
        run = CliRunner().invoke(main, ["index", str(whole / "files"), "--to", str(place)])
        assert run.exit_code != 0
        assert f"{harmed.name}` is cut off; `gte index check" in run.stderr
    checked = CliRunner().invoke(main, ["index", "check", str(place), "--dry-run"])
    assert checked.exit_code == 1
    assert checked.stdout.startswith(f"damaged: lance/windows.lance/data/{harmed.name}: data: ")


@pytest.mark.parametrize("state", ["marked", "tables without settings", "half a table"])
def test_a_run_that_was_killed_before_its_first_commit_goes_on(tmp_path, state, monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", helpers.WordEncoder, raising=False)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a red cat")
    place = tmp_path / "kb"
    if state == "marked":
        place.mkdir()
        (place / "opengte-kb.json").write_text("")
    else:
        helpers.kb(tmp_path)
        shutil.rmtree(place / "lance" / "settings.lance")
        shutil.rmtree(place / "lance" / "copies")
    if state == "half a table":
        shutil.rmtree(place / "lance" / "windows.lance" / "_versions")
    for _ in range(2):
        result = CliRunner().invoke(main, ["index", str(tmp_path / "files"), "--to", str(place)])
        assert result.exit_code == 0, result.output
    assert KnowledgeBase.open(place, helpers.encoder()).store.count() == 1


@pytest.mark.parametrize("kind", stores.STORES[1:3])
def test_documents_are_checked_in_every_store(kind, tmp_path):
    import numpy as np

    from opengte.search.ingest.writer import content_hash

    rng, store = np.random.default_rng(0), stores.made(kind, tmp_path)
    made = []
    for n in range(4):
        one = helpers.document(f"d{n}", rng, source="f/x" if n else "added:")
        content = content_hash(one.title, one.text, one.sections) if n != 2 else "wrong"
        made.append(check.replace(one, content=content))
    store.put(made)
    store.put_sources([check.SourceFile("f/x", "digest", 3)])
    report = check.CheckReport()
    assert check.check_documents(store, report, repair=True)
    assert report.damage == [("d2", "document: its text is not what was indexed")]
    assert sorted(one.id for one in store.scan()) == ["d0", "d1", "d3"]
    (source,) = store.sources()
    assert (source.digest, source.documents) == ("", 2)


def test_manifests_are_read_as_lance_writes_them(whole):
    folder = str(whole / "kb" / "lance")
    store = LanceStore(folder)
    manifest = damage.newest_manifest(folder, "windows")
    found = damage.fragments(folder, manifest)
    rows = store.table("windows").count_rows()
    assert sum(one.rows for one in found) >= rows
    for one in found:
        for name in one.files:
            assert os.path.exists(os.path.join(folder, name)), name
    copied = sum(
        len(rows)
        for rows, sound in damage.readable_rows(folder, "windows", store.table("windows"), set())
        if sound
    )
    assert copied == rows
    assert damage.fragments(folder, "windows.lance/_versions/1.manifest") == []


def test_checksums_of_files_that_are_gone_are_forgotten(tmp_path):
    folder = tmp_path / "x"
    (folder / "t.lance").mkdir(parents=True)
    for n in range(150):
        (folder / "t.lance" / f"{n}").write_text(str(n))
    names = list(checksums.table_files(str(folder)))
    checksums.record(str(folder), names)
    for n in range(149):
        (folder / "t.lance" / f"{n}").unlink()
    checksums.rewrite(str(folder))
    assert list(checksums.read_checksums(str(folder))) == ["t.lance/149"]
    assert checksums.journal_problem(str(folder)) is None
