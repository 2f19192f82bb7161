"""Roots of a collection: ids that survive a move, folders that are gone, old ids."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import opengte
from opengte.cli import main
from opengte.errors import InputError
from opengte.search.filters import And, Condition, Not, Or, matches
from opengte.search.index import Index
from opengte.search.ingest.pipeline import IngestOptions
from opengte.search.kb import KnowledgeBase
from opengte.search.maintenance import relocate
from opengte.search.names import typed_names
from opengte.search.roots import Root, Roots
from tests.support import kb as helpers
from tests.support import stores
from tests.support.fake_models import FakeEncoder
from tests.support.installed import needs

needs("lancedb")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    for number in (1, 2, 3):
        (folder / f"{number}.md").write_text(f"document {number} about alpha{number}")
    (folder / "sub" / "Tax Law.txt").write_text("The tax law of the house.")
    return folder


@pytest.fixture
def base(tmp_path):
    return helpers.kb(tmp_path)


@pytest.fixture
def no_embedding(monkeypatch):
    """Call it where nothing may be embedded any more."""

    def refuse():
        original = FakeEncoder.embed

        def embed(self, texts, **options):
            assert options.get("role") != "document", texts
            return original(self, texts, **options)

        monkeypatch.setattr(FakeEncoder, "embed", embed)

    return refuse


def ids(base):
    return sorted(one.id for one in base.store.scan())


def opened(place):
    return KnowledgeBase.open(place, helpers.encoder())


NAMES = ["d/1.md", "d/2.md", "d/3.md", "d/sub/Tax Law.txt"]

# --- moves ---------------------------------------------------------------------------------------


def test_a_moved_folder_keeps_ids_and_vectors(base, files, tmp_path, no_embedding):
    base.index([files])
    assert ids(base) == NAMES
    files.rename(tmp_path / "e")
    with pytest.raises(InputError, match="4 of 4 files that were in .*/d`, which is empty or") as e:
        base.index([tmp_path / "e"])
    assert f"if it was: gte index move-root {base.place} d {tmp_path / 'e'}" in e.value.__notes__
    assert ids(base) == NAMES
    no_embedding()
    assert base.move_root("d", tmp_path / "e") == Root("d", str(tmp_path / "e"), (str(files),))
    report = base.index([tmp_path / "e"])
    assert (report.unchanged, report.new, report.removed) == (4, 0, 0)
    assert ids(base) == NAMES
    assert base.locate(base.search("alpha2").hits[0].source) == str(tmp_path / "e" / "2.md")


def test_a_copy_of_a_folder_is_no_move(base, files, tmp_path):
    base.index([files])
    shutil.copytree(files, tmp_path / "e")
    assert base.index([tmp_path / "e"]).new == 4
    assert [root.name for root in base.roots] == ["d", "e"]


def test_a_moved_folder_may_be_told_to_be_another(base, files, tmp_path):
    base.index([files])
    files.rename(tmp_path / "e")
    base.index([tmp_path / "e"], IngestOptions(name="other"))
    assert len(ids(base)) == 8
    assert "other/1.md" in ids(base)
    assert base.remove_root("d") == 4
    assert {one.partition("/")[0] for one in ids(base)} == {"other"}


@pytest.mark.parametrize("state", ["gone", "empty", "hidden files only"])
def test_a_folder_that_is_empty_or_gone_removes_nothing_unless_told(base, files, state):
    base.index([files])
    shutil.rmtree(files)
    if state != "gone":
        files.mkdir()
    if state == "hidden files only":
        (files / ".placeholder").write_text("x")
    for options in (IngestOptions(dry_run=True), IngestOptions()):
        report = base.index([files], options)
        assert report.removed == 0
        ((place, reason),) = report.problems
        assert place == str(files)
        assert reason.startswith("is empty or gone, and had 4 documents in 4 files: nothing is rem")
        assert "--allow-empty" in reason
        assert "gte index move-root" in reason
    assert ids(base) == NAMES
    assert base.index([files], IngestOptions(allow_empty=True)).removed == 4
    assert ids(base) == []


def test_a_root_inside_the_given_folder_is_guarded_too(base, files, tmp_path):
    base.index([files])
    (tmp_path / "other.txt").write_text("other words")
    shutil.rmtree(files)
    report = base.index([tmp_path])
    assert (report.new, report.removed) == (1, 0)
    assert [place for place, _ in report.problems] == [str(files)]


def test_a_path_that_never_was_is_an_error(base, tmp_path):
    with pytest.raises(InputError, match="`.*/nowhere` does not exist"):
        base.index([tmp_path / "nowhere"])


def test_an_index_beside_its_documents_is_copied_whole(files, tmp_path, no_embedding):
    project = tmp_path / "project"
    shutil.copytree(files, project / "d")
    helpers.kb(project).index([project / "d"])
    shutil.copytree(project, tmp_path / "copy")
    no_embedding()
    copy = opened(tmp_path / "copy" / "kb")
    assert copy.locate("d/1.md") == str(tmp_path / "copy" / "d" / "1.md")
    assert copy.index([tmp_path / "copy" / "d"]).unchanged == 4
    assert ids(copy) == NAMES
    where = {"path": str(project / "d" / "1.md")}  # the old path still names it
    assert [hit.id for hit in copy.search("alpha", where=where).hits] == ["d/1.md"]
    (tmp_path / "away").mkdir()
    (project / "kb").rename(tmp_path / "away" / "kb")  # the index alone
    assert opened(tmp_path / "away" / "kb").locate("d/1.md") == str(project / "d" / "1.md")


def test_errors_of_moves(base, files, tmp_path):
    base.index([files])
    with pytest.raises(InputError, match=r"`x` is no folder of the index; it has: `d` \(.*/d\)"):
        base.move_root("x", files)
    with pytest.raises(InputError, match="is no folder; give the one that `.*/d` was moved to"):
        base.move_root("d", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has none of the 4 files of .*; --force moves it anyway"):
        base.move_root("d", tmp_path / "empty")
    assert base.move_root("d", tmp_path / "empty", force=True).path == str(tmp_path / "empty")
    with pytest.raises(InputError, match="a name goes with one folder"):
        base.index([files, tmp_path], IngestOptions(name="x"))
    with pytest.raises(InputError, match="expected one without `/`"):
        base.index([files], IngestOptions(name="x/y"))
    with pytest.raises(InputError, match="`d` is the name of .*; choose another"):
        base.index([files], IngestOptions(name="d"))


def test_folders_of_the_same_name_are_told_apart(base, files, tmp_path):
    other = tmp_path / "x" / "d"
    other.mkdir(parents=True)
    (other / "new.txt").write_text("new words")
    base.index([files, other])
    assert "d-2/new.txt" in ids(base)
    base.index([tmp_path / "x" / "d" / "new.txt"])  # a file in a root is of that root
    assert [root.name for root in base.roots] == ["d", "d-2"]


def test_a_switch_and_a_rollback_keep_the_folders(base, files, tmp_path):
    base.index([files])
    _ = base.migrate(helpers.encoder(max_length=32)).commit()
    assert base.locate("d/1.md") == str(files / "1.md")
    files.rename(tmp_path / "e")
    base.move_root("d", tmp_path / "e")
    base.rollback().commit()
    assert base.locate("d/1.md") == str(tmp_path / "e" / "1.md")


# --- ids of earlier versions ---------------------------------------------------------------------


def old_store(kind, folder, names, rng):
    """Return a store as an earlier version wrote it: ids are paths."""
    store = stores.made(kind, folder, format=1, model={})
    made = []
    for name in names:
        place = {"path": f"/files/{name}", "folder": "/files", "name": name, "format": "text"}
        one = helpers.document(f"/files/{name}", rng, source=f"/files/{name}", metadata=place)
        made += [one, replace(one, id=f"{one.id}#row 2", content=f"{one.content} 2")]
    store.put(made)
    sources = [(one.source, "digest", 2) for one in made[::2]]
    store.put_sources([relocate.SourceFile(*one) for one in sources])
    return store, {one.id: one for one in made}


@pytest.mark.parametrize("kind", stores.STORES)
def test_old_ids_are_moved_below_a_root_in_every_store(kind, tmp_path):
    rng = np.random.default_rng(1)
    names = [f"{n}.txt" for n in range(5)]
    store, before = old_store(kind, tmp_path, names, rng)
    index = index_of(store)
    relocate.adopt_old_ids(store, Roots((Root("f", "/files"),)), list(store.sources()))
    found = {one.id: one for one in store.scan()}
    assert sorted(found) == sorted(f"f/{name}{row}" for name in names for row in ("", "#row 2"))
    for one in found.values():
        old = before["/files" + one.id[1:]]
        place = {"path": one.source, "folder": "f"}
        metadata = {**old.metadata, **place}
        helpers.same(
            one, replace(old, id=one.id, source=one.source, metadata=metadata, row=one.row)
        )
    assert sorted(x.id for x in store.sources()) == [f"f/{name}" for name in names]
    assert index.store.count() == 10


def index_of(store):
    index = Index.__new__(Index)
    index.store = store
    return index


def test_an_old_index_is_migrated_by_the_next_run(base, files, tmp_path, no_embedding):
    make_old(base, files)
    old = opened(base.place)
    assert ids(old)[0] == str(files / "1.md")
    assert old.search("alpha2").hits[0].id == str(files / "2.md")
    assert old.index([files], IngestOptions(dry_run=True)).unchanged == 4
    no_embedding()
    report = old.index([files])
    assert (report.unchanged, report.new, report.changed, report.removed) == (4, 0, 0, 0)
    assert ids(old) == NAMES
    assert old.settings["format"] == 2


def test_an_old_index_whose_folder_was_moved_before(base, files, tmp_path, no_embedding):
    make_old(base, files)
    files.rename(tmp_path / "e")
    no_embedding()
    with pytest.raises(InputError, match="was the folder moved") as error:
        opened(base.place).index([tmp_path / "e"])
    command = f"gte index move-root {base.place} {files} {tmp_path / 'e'}"
    assert f"if it was: {command}" in error.value.__notes__
    assert CliRunner().invoke(main, command.split()[1:]).exit_code == 0
    assert opened(base.place).index([tmp_path / "e"]).unchanged == 4
    assert ids(base) == NAMES


@pytest.mark.parametrize("step", range(1, 9))
def test_a_migration_that_is_killed_at_any_step_goes_on(
    base, files, step, monkeypatch, no_embedding
):
    make_old(base, files)
    monkeypatch.setattr(relocate, "FETCHED", 2)
    writes = itertools.count(1)
    store = opened(base.place).store

    class Killed(BaseException):
        pass

    for name in ("put", "delete", "put_sources", "delete_sources"):
        original = getattr(type(store), name)

        def write(self, *given, original=original):
            if next(writes) == step:
                raise Killed
            return original(self, *given)

        monkeypatch.setattr(type(store), name, write)
    with pytest.raises(Killed):
        opened(base.place).index([files])
    no_embedding()
    report = opened(base.place).index([files])
    assert report.unchanged == 4
    assert ids(base) == NAMES
    assert sorted(one.id for one in base.store.sources()) == NAMES


def make_old(base, files):
    """Index files, and give them the ids of an earlier version."""
    base.index([files])
    index, back = base.latest(), Roots((Root(str(files), "d"),))
    sources = list(base.store.sources())
    relocate.adopt_old_ids(base.store, back, sources)

    def old(settings):
        return {**{k: v for k, v in settings.items() if k != "roots"}, "format": 1}

    index.change_settings(old)


# --- filters -------------------------------------------------------------------------------------


def test_filters_on_paths_mean_where_files_are_or_were():
    """Compared with the same filter on documents that have absolute paths."""
    roots = Roots((Root("hr", "/home/me/hr", ("/old/hr",)), Root("mail", "/srv/mail"))).added("/x")
    rng = np.random.default_rng(0)
    names = ["hr/a.md", "hr/sub/b.md", "hr/hr/c.md", "mail/a.md", "mail/sub/x/b.md", "x/a.md"]
    texts = ["/", "/home", "/home/me/hr", "/home/me/hr/", "/home/me/h", "/home/me/hr/sub", "me/hr/"]
    texts += ["/srv/mail/a.md", "hr/sub", "hr/a.md", "/hr/", "/sub/x", "/x", "/x/a.md", "l/sub"]
    for _ in range(2000):
        field, text = rng.choice(["path", "folder"]), str(rng.choice(texts))
        operator = str(rng.choice(["=", "!=", "in", "not in", "starts", "contains"]))
        value = (text.rstrip("/"), "/x/a.md") if operator in ("in", "not in") else text
        where = Condition(str(field), operator, value)
        for name in names:
            path = roots.path_of(name)
            below, above = (
                one.rpartition("/")[0] if field == "folder" else one for one in (name, path)
            )
            plain = where
            if operator in ("=", "!=") and text != "/":
                plain = replace(where, value=text.rstrip("/"))
            either = [matches(plain, {field: one}) for one in (below, above)]
            negative = operator in ("!=", "not in")
            right = all(either) if negative else any(either)
            assert matches(roots.translate(where), {field: below}) == right, (where, name)


def test_filters_on_former_paths_and_inside_others():
    roots = Roots((Root("hr", "/new", ("/old",)),))
    inside = Condition("path", "starts", "/old/sub")
    other = Condition("year", "=", 1)
    document = {"path": "hr/sub/a.md", "year": 1}
    assert matches(roots.translate(And((Or((inside, other)), other))), document)
    assert not matches(roots.translate(Not(inside)), document)
    assert roots.translate(other) is other


def test_row_level_access_by_path_holds_after_a_move(base, files, tmp_path):
    base.index([files])
    rules = [{"folder": str(files / "sub")}, {"path": {"$starts": f"{files}/sub"}}]
    files.rename(tmp_path / "e")
    base.move_root("d", tmp_path / "e")
    for rule in [*rules, {"folder": str(tmp_path / "e" / "sub")}]:
        assert ids(base.limited(rule)) == ["d/sub/Tax Law.txt"]
    assert len(ids(base.limited({"folder": {"$ne": str(files / "sub")}}))) == 3


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        "d/sub/Tax Law.txt",
        "Tax Law.txt",
        "tax law.TXT",
        "sub/Tax Law.txt",
        "tax law",
        "./Tax Law.txt",
    ],
)
def test_explain_takes_what_a_person_types(base, files, typed):
    base.index([files])
    assert base.explain("tax", typed).document == "d/sub/Tax Law.txt"
    assert base.explain("tax", str(files / "sub" / "Tax Law.txt")).document == "d/sub/Tax Law.txt"


def test_explain_lists_several_and_proposes_near_names(base, files):
    (files / "sub" / "1.md").write_text("another one")
    (files / "sub" / "bad.json").write_text("broken")
    base.index([files])
    with pytest.raises(InputError, match="`1.md` may be `d/1.md`, `d/sub/1.md`: name one of them"):
        base.explain("alpha", "1.md")
    assert base.explain("alpha", "sub/1.md").document == "d/sub/1.md"
    (step,) = base.explain("alpha", "taxlaw.txt").steps
    assert step.found.endswith("was ever indexed; similar: `d/sub/Tax Law.txt`")
    (step,) = base.explain("alpha", "bad.json").steps
    assert step.found.startswith("the file `d/sub/bad.json` gave no document: not JSON")


def test_an_exact_name_comes_before_others():
    names = ["a/Read.md", "b/read.md", "c/read.md#2", "c/read.md#3"]
    assert typed_names(names, "Read.md") == ["a/Read.md"]
    assert typed_names(names, "read.md") == ["b/read.md", "c/read.md#2", "c/read.md#3"]
    assert typed_names(names, "READ") == names
    assert typed_names(names, "ead.md") == []


# --- commands ------------------------------------------------------------------------------------


def test_the_commands(files, tmp_path, monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", helpers.WordEncoder, raising=False)
    place = tmp_path / "kb"

    def gte(*arguments):
        return CliRunner().invoke(main, ["index", *map(str, arguments)])

    assert gte(files, "--to", place).exit_code == 0
    files.rename(tmp_path / "e")
    moved = gte(tmp_path / "e", "--to", place)
    assert moved.exit_code != 0
    assert f"gte index move-root {place} d {tmp_path / 'e'}" in moved.stderr
    gone = gte(files, "--to", place)
    assert gone.exit_code == 1
    assert "had 4 documents in 4 files: nothing is removed" in gone.stderr
    assert "(gone)" in gte("roots", place).stdout
    assert gte("move-root", place, "d", tmp_path / "e").stderr == f"`d` is {tmp_path / 'e'} now\n"
    assert gte(tmp_path / "e", "--to", place).stderr.startswith("4 files: 0 new, 0 changed, 4 unc")
    assert gte("roots", place).stdout.split() == ["d", "4", "files", str(tmp_path / "e")]
    assert gte("remove-root", place, "d").stderr == "removed `d` with 4 documents\n"
    nowhere = gte(Path("nowhere"), "--to", tmp_path / "kb2")
    assert "`nowhere` does not exist" in nowhere.stderr
    assert not (tmp_path / "kb2").exists()
