"""An index changes its model while it is used: nothing is lost, and nobody sees half of it."""

import os
import threading
from dataclasses import replace

import pytest

from opengte.errors import InputError
from opengte.search.index import Index
from opengte.search.kb import KnowledgeBase
from opengte.search.maintenance import migrate as switching
from opengte.search.stores.lancedb import generations
from opengte.search.stores.lancedb.store import open_store
from tests.search.stores.lancedb.test_s3 import bucket  # noqa: F401
from tests.support import kb as helpers
from tests.support.fake_models import FakeEncoder
from tests.support.installed import needs
from tests.support.kb import WordEncoder
from tests.support.kb_switch_kill import kill_switches, load

needs("lancedb")


@pytest.fixture
def base(tmp_path):
    made = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    made.add([f"document {n} of {helpers.WORDS[n % 14]}" for n in range(30)], map(str, range(30)))
    return KnowledgeBase.open(tmp_path / "kb", load=load)


@pytest.fixture
def embedded(monkeypatch):
    """Every text that was embedded as a document, and by which model."""
    texts: list[tuple[str, str]] = []
    original = FakeEncoder.embed

    def embed(self, given, **options):
        if options.get("role") == "document":
            texts.extend((self.card.name, text) for text in given)
        return original(self, given, **options)

    monkeypatch.setattr(FakeEncoder, "embed", embed)
    return texts


def texts(base):
    return {one.id: one.text for one in base.store.scan()}


def assert_all_in_model(base, model="other"):
    """Every vector is what the model makes of the text."""
    fresh = WordEncoder.load(model)
    for one in base.store.scan():
        (found,) = switching.Embedder(fresh, "none").embed([(one.title, one.text, one.sections)])
        for mine, true in zip(one.windows, found.windows, strict=True):
            assert mine.vector.tolist() == pytest.approx(true.vector.tolist(), abs=1e-6)


def test_a_switch_embeds_everything_and_the_pointer_moves(base, tmp_path):
    before = texts(base)
    switch = base.migrate(WordEncoder.load("other"))
    assert switch.plan() == switching.MigrationStats(documents=30, embedded=30)
    done = switch.build()
    assert (done.documents, done.embedded, done.copied, done.removed) == (30, 30, 0, 0)
    assert KnowledgeBase.open(tmp_path / "kb", load=load).identity.model == "fake"
    assert KnowledgeBase(switch.new).search("document 3").hits
    made = KnowledgeBase(switch.commit())
    assert made.identity.model == "other"
    opened = KnowledgeBase.open(tmp_path / "kb", load=load)
    assert texts(opened) == before
    assert_all_in_model(opened)
    assert opened.search("document 3", 1).hits[0].id == "3"
    assert opened.add(["document 3 of cats"], ["3"]).changed == 1
    assert opened.status().recall.value == 1.0


def test_hashes_sources_and_metadata_come_along(tmp_path, embedded):
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.md").write_text("---\nzeta: 1\nalpha: x\n---\n# Red\n\nA red cat.")
    (files / "b.md").write_text("A blue dog.")
    (files / "bad.json").write_text("broken")
    base = helpers.kb(tmp_path)
    base.index([files])
    old = base.current
    made = KnowledgeBase(base.migrate(WordEncoder.load("other")).commit())
    for a, b in zip(old.store.scan(), made.store.scan(), strict=True):
        assert (a.content, a.row, a.metadata, a.indexed) == (
            b.content,
            b.row,
            b.metadata,
            b.indexed,
        )
    assert list(old.store.sources()) == list(made.store.sources())
    count = len(embedded)
    report = made.index([files])
    assert (report.unchanged, report.new, report.changed) == (2, 0, 0)
    assert len(embedded) == count


def test_a_build_that_was_stopped_goes_on(base, embedded, monkeypatch):
    monkeypatch.setattr(switching, "BATCH_DOCUMENTS", 4)
    first = base.migrate(WordEncoder.load("other"))
    put, calls = first.new.store.put, []

    def stop(documents):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(put(documents))

    monkeypatch.setattr(first.new.store, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        first.build()
    assert base.search("document 3", 1).hits[0].id == "3"
    second = base.migrate(WordEncoder.load("other"))
    assert second.plan().embedded == 18
    assert second.build().embedded == 18
    assert len(texts(second.commit())) == 30


def test_what_changes_during_a_switch_is_not_lost(base, embedded):
    writer = KnowledgeBase.open(base.place, load=load)
    switch = base.migrate(WordEncoder.load("other"))
    switch.build()
    writer.add(["new words", "document 1 of tax"], ["new", "1"])
    writer.delete(["2"])
    before = len(embedded)
    made = KnowledgeBase(switch.commit())
    assert sorted(text for _, text in embedded[before:]) == ["document 1 of tax", "new words"]
    assert texts(made) == texts(writer)
    assert set(texts(made)) == {*map(str, range(30)), "new"} - {"2"}


def test_a_writer_that_was_open_writes_to_the_new_one(base):
    writer = KnowledgeBase.open(base.place, load=load)
    old = writer.store
    base.migrate(WordEncoder.load("other")).commit()
    writer.add(["new words"], ["new"])
    writer.delete(["2"])
    made = KnowledgeBase.open(base.place, load=load)
    assert set(texts(made)) == {*map(str, range(30)), "new"} - {"2"}
    assert old.count() == 30
    assert_all_in_model(made)
    with pytest.raises(InputError, match="was switched to another model meanwhile"):
        old.delete(["3"])


def test_a_writer_in_the_middle_does_its_work_again(base, monkeypatch):
    """The switch comes between two commits of one run."""
    writer = KnowledgeBase.open(base.place, load=load)
    monkeypatch.setattr("opengte.search.ingest.writer.BATCH_DOCUMENTS", 2)
    store = writer.store
    put, calls = store.put, []

    def interrupted(documents):
        calls.append(len(documents))
        if len(calls) == 2:
            base.migrate(WordEncoder.load("other")).commit()
        put(documents)

    monkeypatch.setattr(store, "put", interrupted)
    writer.add([f"new {n}" for n in range(6)], [f"new{n}" for n in range(6)])
    made = KnowledgeBase.open(base.place, load=load)
    assert len(texts(made)) == 36
    assert_all_in_model(made)


def test_a_reader_that_was_open_follows_whole(base):
    reader = KnowledgeBase.open(base.place, load=load)
    assert reader.search("document 3", 1).hits[0].id == "3"
    before = reader.current
    store = before.store
    base.migrate(WordEncoder.load("other")).commit(keep_old=False)
    answer = reader.search("document 3", 1)
    assert answer.hits[0].id == "3"
    assert reader.latest().identity.model == "other"
    assert reader.latest() is reader.latest()
    assert (before.store, before.identity.model) == (store, "fake")
    assert reader.status(0).model == "other"


def test_searches_during_a_switch_are_of_one_model(base):
    """A question that is embedded by one model and compared with vectors of another scores low."""
    words = "document 3 of grass"
    wrong, stop, errors = [], threading.Event(), []

    def search():
        reader = KnowledgeBase.open(base.place, load=load)
        try:
            while not stop.is_set():
                top = reader.search(words, 30, legs=("dense",), collapse=False).hits
                scores = {one.id: one.score for one in top}
                if len(scores) != 30:
                    wrong.append(len(scores))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for one in threads:
        one.start()
    for model in ("other", "third", "other"):
        switch = base.migrate(WordEncoder.load(model))
        switch.build()
        switch.commit()
    stop.set()
    for one in threads:
        one.join()
    assert (wrong, errors) == ([], [])


def test_a_search_whose_index_is_dropped_under_it_is_done_again(base, monkeypatch):
    reader = KnowledgeBase.open(base.place, load=load)
    store = reader.store
    lexical = store.lexical

    def late(*arguments):
        base.migrate(WordEncoder.load("other")).commit(keep_old=False)
        monkeypatch.setattr(store, "lexical", lexical)
        return store.lexical(*arguments)

    monkeypatch.setattr(store, "lexical", late)
    assert reader.search("document 3", 1).hits[0].id == "3"
    assert reader.latest().identity.model == "other"


def test_rollback(base, embedded):
    before = texts(base)
    made = KnowledgeBase(base.migrate(WordEncoder.load("other")).commit())
    count = len(embedded)
    back = KnowledgeBase(made.rollback().commit())
    assert (back.identity.model, texts(back), len(embedded)) == ("fake", before, count)
    again = KnowledgeBase(back.rollback().commit())
    assert (again.identity.model, len(embedded)) == ("other", count)


def test_rollback_keeps_what_was_added_since(base, embedded):
    made = KnowledgeBase(base.migrate(WordEncoder.load("other")).commit())
    made.add(["new words"], ["new"])
    made.delete(["2"])
    count = len(embedded)
    back = KnowledgeBase(made.rollback().commit())
    assert ("fake", "new words") in embedded[count:]
    assert not any("document" in text for _, text in embedded[count:])
    assert set(texts(back)) == {*map(str, range(30)), "new"} - {"2"}
    assert_all_in_model(back, "fake")


def test_switching_back_by_name_embeds_nothing(base, embedded):
    made = KnowledgeBase(base.migrate(WordEncoder.load("other")).commit())
    count = len(embedded)
    switch = made.migrate(WordEncoder.load("minilm"))
    assert switch.plan().embedded == 0
    switch.commit()
    assert [one for one in embedded[count:] if "document" in one[1]] == []


def test_only_two_generations_are_kept(base):
    def folders():
        return {n for n in os.listdir(base.place) if os.path.isdir(os.path.join(base.place, n))}

    base.migrate(WordEncoder.load("other")).commit()
    second = generations.read_pointer(base.place).current
    assert folders() == {"lance", second}
    base.migrate(WordEncoder.load("third")).commit()
    third = generations.read_pointer(base.place).current
    assert folders() == {second, third}
    base.migrate(WordEncoder.load("fourth")).commit(keep_old=False)
    assert folders() == {generations.read_pointer(base.place).current}
    with pytest.raises(InputError, match="has no generation to go back to"):
        base.rollback()


def test_the_same_model_is_refused(base):
    with pytest.raises(InputError, match=r"is in `fake` \(fp32\), with these settings, already"):
        base.migrate(helpers.encoder())
    base.migrate(helpers.encoder(), passages="none")


def test_two_switches_at_once_are_refused(base):
    with generations.migration_lock(base.place):
        with pytest.raises(InputError, match="another process is switching the index"):
            base.migrate(WordEncoder.load("other")).build()


def test_settings_that_the_new_model_cannot_keep(tmp_path):
    base = KnowledgeBase.create(tmp_path / "kb", helpers.encoder(), first_pass=6, language=None)
    base.add(["a red cat"], ["x"])
    switch = base.migrate(WordEncoder.load("other"))
    assert (switch.settings["first_pass"], switch.settings["language"]) == (6, None)


def test_stores_that_cannot_be_switched_say_so(tmp_path):
    from opengte.search.stores.memory import MemoryStore

    made = helpers.kb(tmp_path)
    base = KnowledgeBase(Index("memory", MemoryStore(), made.settings))
    with pytest.raises(InputError, match="only folders and buckets hold two generations"):
        base.rollback()


def test_a_damaged_pointer_is_an_error(base):
    with open(os.path.join(base.place, generations.POINTER_FILE), "w") as file:
        file.write("{")
    with pytest.raises(InputError, match=r"generation.json` is damaged"):
        KnowledgeBase.open(base.place)


def test_commits_of_the_live_index_wait_for_a_switch_and_not_for_each_other(base):
    store = open_store(base.place)
    done = threading.Event()

    def write():
        store.delete(["1"])
        done.set()

    with generations.write_lock(base.place, "lance"), generations.write_lock(base.place, "lance"):
        pass
    with generations.exclusive_lock(base.place):
        thread = threading.Thread(target=write)
        thread.start()
        assert not done.wait(0.3)
    assert done.wait(10)
    thread.join()


@pytest.mark.slow
def test_killed_at_any_moment_the_index_is_whole(tmp_path):
    found = kill_switches(tmp_path, 5, documents=120, seed=7)
    assert found.clean, found
    assert found.kills == 5
    assert found.written > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bucket_switches_too(bucket, monkeypatch):  # noqa: F811
    base = KnowledgeBase.create(bucket, helpers.encoder())
    base.add([f"document {n} of tax" for n in range(12)], map(str, range(12)))
    writer = KnowledgeBase.open(bucket, load=load)
    switch = KnowledgeBase.open(bucket, load=load).migrate(WordEncoder.load("other"))
    switch.build()
    write = generations.write_pointer

    def late(*arguments):
        """Documents come and go after the last look, before the pointer moves."""
        writer.store.put(list(_renamed(writer.store.fetch(["1"]).values(), "late")))
        writer.store.delete(["2"])
        write(*arguments)

    monkeypatch.setattr(generations, "write_pointer", late)
    made = KnowledgeBase(switch.commit())
    monkeypatch.setattr(generations, "write_pointer", write)
    wanted = {*map(str, range(12)), "late"} - {"2"}
    assert made.identity.model == "other"
    assert set(texts(made)) == wanted
    assert_all_in_model(made)
    writer.add(["new words"], ["new"])
    assert set(texts(KnowledgeBase.open(bucket, load=load))) == wanted | {"new"}
    back = KnowledgeBase(made.rollback().commit(keep_old=False))
    assert (back.identity.model, set(texts(back))) == ("fake", wanted | {"new"})
    with pytest.raises(InputError, match="has no generation to go back to"):
        back.rollback()


def _renamed(documents, name):
    return (replace(one, id=name) for one in documents)
