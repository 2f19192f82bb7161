"""`gte index` and `gte search --in`, with an encoder of words."""

import json
import os

import pytest
from click.testing import CliRunner, Result

import opengte
from opengte import checkpoint
from opengte.cli import main
from opengte.search.kb import KnowledgeBase
from tests.support.fake_models import CARD, FakeReranker
from tests.support.installed import needs
from tests.support.kb import WordEncoder, same

needs("lancedb")


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", WordEncoder, raising=False)
    monkeypatch.setattr(opengte, "Reranker", FakeReranker, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "cats.md").write_text("---\nyear: 2020\n---\n# Cats\n\nA red cat eats green grass.")
    (folder / "dogs.txt").write_text("A blue dog sleeps by the river.")
    return folder


@pytest.fixture
def place(tmp_path, files):
    result = gte("index", files, "--to", tmp_path / "kb")
    assert result.exit_code == 0, result.output
    return tmp_path / "kb"


def gte(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def rows(result: Result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_index_then_search(tmp_path, files):
    made = gte("index", files, "--to", tmp_path / "kb")
    assert made.stdout == ""
    assert made.stderr == ("2 files: 2 new, 0 changed, 0 unchanged, 0 removed (fake, fp32)\n")
    result = gte("search", "red cat", "--in", tmp_path / "kb")
    assert result.exit_code == 0, result.output
    head, place, passage = result.stdout.splitlines()[:3]
    assert head == "  1  Cats"
    assert place.startswith(f"     {files / 'cats.md'}  dense ")
    assert "lexical 1 (" in place
    assert "A *red* *cat* eats green grass." in passage
    assert result.stderr.startswith("2 of 2 documents (dense 2, sparse ")


def test_search_as_json(place, files):
    (row,) = rows(gte("search", "red cat", "--in", place, "--top", 1, "--json"))
    assert row["id"] == "files/cats.md"
    assert row["metadata"]["year"] == 2020
    assert set(row["legs"]) == {"dense", "sparse", "lexical"}
    assert row["passage"]["text"].endswith("green grass.")


def test_a_second_run_loads_no_model(place, files, monkeypatch):
    monkeypatch.setattr(WordEncoder, "load", None)
    result = gte("index", files, "--to", place)
    assert result.stderr == "2 files: 0 new, 0 changed, 2 unchanged, 0 removed\n"


def test_a_dry_run_says_what_would_be_done(place, files):
    (files / "dogs.txt").unlink()
    (files / "new.txt").write_text("new words")
    result = gte("index", files, "--to", place, "--dry-run")
    assert result.stdout == f"would remove: {files / 'dogs.txt'}\n"
    assert result.stderr == (
        "2 files: 1 would be new, 0 would be changed, 1 unchanged, 1 would be removed\n"
    )
    assert KnowledgeBase.open(place).store.count() == 2


def test_a_dry_run_makes_no_index(tmp_path, files, monkeypatch):
    class Checkpoint:
        card = CARD

    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda model, **options: Checkpoint())
    result = gte("index", files, "--to", tmp_path / "new", "--dry-run")
    assert result.stderr.startswith("2 files: 2 would be new, ")
    assert not (tmp_path / "new").exists()


def test_what_failed_is_listed_and_the_rest_is_indexed(tmp_path, files):
    (files / "bad.json").write_text("broken")
    (files / "photo.jpg").write_bytes(b"x")
    result = gte("index", files, "--to", tmp_path / "kb")
    assert result.exit_code == 1
    assert f"error: {files / 'bad.json'}: not JSON: " in result.stderr
    assert f"skipped: {files / 'photo.jpg'}: unknown format (.jpg)" in result.stderr
    assert result.stderr.endswith("; 1 skipped (unknown format (.jpg)); 1 failed\n")
    listed = gte("index", "status", tmp_path / "kb", "--problems").stdout.splitlines()
    assert listed[0].startswith("failed: not JSON: ") and listed[0].endswith(" (1)")
    assert listed[1:] == [
        f"  {files / 'bad.json'}",
        "skipped: unknown format (.jpg) (1)",
        f"  {files / 'photo.jpg'}",
    ]
    found = rows(gte("index", "status", tmp_path / "kb", "--problems", "--json"))
    assert [row["kind"] for row in found] == ["failed", "skipped"]


def test_a_run_that_skips_more_than_it_reads_says_so(tmp_path, files):
    for n in range(3):
        (files / f"{n}.jpg").write_bytes(b"x")
    result = gte("index", files, "--to", tmp_path / "kb")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == (
        "warning: 3 files were skipped and only 2 read; "
        f"`gte index status {tmp_path / 'kb'} --problems` lists them by reason"
    )


def test_a_report_as_json(tmp_path, files):
    (row,) = rows(gte("index", files, "--to", tmp_path / "kb", "--json"))
    assert (row["new"], row["embedded"], row["problems"]) == (2, 2, [])


def test_status(place):
    lines = dict(line.split(None, 1) for line in gte("index", "status", place).stdout.splitlines())
    assert lines["model"] == "fake (fake)"
    assert lines["documents"].startswith("2 in ")
    assert lines["recall@10"].startswith("1.000 (worst 1.00) on 2 queries")
    (row,) = rows(gte("index", "status", place, "--json"))
    assert row["health"]["documents"] == 2


def test_export_and_import(tmp_path, place, files):
    assert gte("index", "export", place, tmp_path / "x.parquet").exit_code == 0
    made = gte("index", "import", tmp_path / "x.parquet", "--to", tmp_path / "kb2")
    assert made.stderr == f"created {tmp_path / 'kb2'} with 2 documents\n"
    old, new = (KnowledgeBase.open(one) for one in (place, tmp_path / "kb2"))
    assert old.settings == new.settings
    for a, b in zip(old.store.scan(), new.store.scan(), strict=True):
        same(a, b)
    question = ("search", "red cat", "--json", "--in")
    assert rows(gte(*question, place)) == rows(gte(*question, tmp_path / "kb2"))
    assert (
        "is an index already"
        in gte("index", "import", tmp_path / "x.parquet", "--to", place).stderr
    )
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    assert (
        "not a Parquet file"
        in gte("index", "import", tmp_path / "no.parquet", "--to", tmp_path / "kb3").stderr
    )


def test_duplicates(place, files):
    (files / "copy.txt").write_text((files / "dogs.txt").read_text())
    gte("index", files, "--to", place)
    (row,) = rows(gte("index", "duplicates", place, "--json"))
    assert [os.path.basename(name) for name in row["documents"]] == ["copy.txt", "dogs.txt"]


def test_settings_of_an_index_cannot_change(place, files):
    result = gte("index", files, "--to", place, "--passages", "none")
    assert result.exit_code == 1
    assert "--passages is 'none', but the index" in result.stderr
    assert gte("index", files, "--to", place, "--passages", "auto").exit_code == 0


def test_another_model_is_refused_with_the_command_that_helps(place):
    result = gte("search", "red", "--in", place, "--model", "other")
    assert result.exit_code == 1
    assert "fingerprint 'other', the index has 'fake'" in result.stderr
    assert "hint: use the index's own: --model fake --precision fp32" in result.stderr
    result = gte("search", "red", "--in", place, "--instruction", "Find it")
    assert "instruction 'Find it', the index has None" in result.stderr


def test_a_model_of_the_environment_does_not_stand_in_the_way(place, monkeypatch):
    monkeypatch.setenv("GTE_MODEL", "other")
    assert gte("search", "red", "--in", place).exit_code == 0


def test_filters_and_weights(place):
    found = rows(gte("search", "red", "--in", place, "--json", "--where", "year>=2020"))
    assert [os.path.basename(row["id"]) for row in found] == ["cats.md"]
    only = rows(gte("search", "dog", "--in", place, "--json", "--leg", "lexical"))
    assert [os.path.basename(row["id"]) for row in only] == ["dogs.txt"]
    assert gte("search", "dog", "--in", place, "--weight", "dense=0.5").exit_code == 0
    for bad in ("x=1", "dense", "dense=x"):
        assert "expected" in gte("search", "dog", "--in", place, "--weight", bad).stderr


def test_explain(place, files):
    result = gte("search", "red cat", "--in", place, "--explain", files / "dogs.txt", "--top", 1)
    assert result.stdout.splitlines()[0] == "files/dogs.txt"
    assert result.stdout.splitlines()[-1] == "lost at: fused"
    (row,) = rows(gte("search", "cat", "--in", place, "--explain", "nowhere", "--json"))
    assert row["lost_at"] == "parsed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query"], "Nothing to search"),
        (["query", ".", "--in", "kb"], "Give either PATHS or --in KB"),
        (["query", ".", "--explain", "x"], "--explain needs an index"),
        (["query", "--in", "kb", "--passage-tokens", "9"], "is a setting of an index"),
    ],
)
def test_wrong_usage(arguments, message):
    result = gte("search", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_is_no_index(tmp_path):
    result = gte("search", "x", "--in", tmp_path)
    assert result.exit_code == 1
    assert f"error: `{tmp_path}` is not an index\nhint: make one: gte index" in result.stderr
