"""`gte index switch` and `gte index rollback`, with an encoder of words."""

import json
import re

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import opengte
from opengte.cli import main
from opengte.search.kb import KnowledgeBase
from opengte.search.maintenance import compare
from opengte.search.maintenance.migrate import Migration
from tests.support import kb as helpers
from tests.support.installed import needs
from tests.support.kb import WordEncoder

needs("lancedb")


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", WordEncoder, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def place(tmp_path):
    made = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    made.add([f"document {n} of {helpers.WORDS[n % 14]}" for n in range(20)], map(str, range(20)))
    return tmp_path / "kb"


def gte(*arguments: object):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def model(place):
    return KnowledgeBase.open(place).identity.model


def test_a_dry_run_builds_nothing(place):
    result = gte("index", "switch", place, "--model", "other", "--dry-run")
    assert result.stdout == (
        "20 documents: 20 would be embedded, 0 rewritten, 0 are up to date, 0 would be removed\n"
    )
    assert sorted(path.name for path in place.iterdir()) == ["lance", "opengte-kb.json"]
    (row,) = map(
        json.loads,
        gte("index", "switch", place, "-m", "other", "--dry-run", "--json").stdout.splitlines(),
    )
    assert (row["new"], row["embedded"]) == ("other", 20)


def test_status_names_what_a_rollback_goes_to(place):
    assert "\nprevious" not in gte("index", "status", place, "--sample", "0").stdout
    was = model(place)
    gte("index", "switch", place, "--model", "other")
    shown = gte("index", "status", place, "--sample", "0").stdout
    assert f"previous      {was}, kept for `gte index rollback`\n" in shown
    (row,) = map(json.loads, gte("index", "status", place, "--json").stdout.splitlines())
    assert (row["model"], row["before"], row["calibration"]) == ("other", was, None)


def test_switch_and_rollback(place):
    result = gte("index", "switch", place, "--model", "other")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "20 documents: 20 embedded (fake, fp32); switched: fake (fp32) -> other (fp32); undo "
        "with `gte index rollback`\n"
    )
    assert model(place) == "other"
    found = gte("search", "document 3", "--in", place, "--json", "--top", 1)
    assert json.loads(found.stdout)["id"] == "3"
    assert gte("index", "rollback", place, "--dry-run").stdout.startswith("20 documents: 0 would")
    back = gte("index", "rollback", place)
    assert back.stderr == (
        "20 documents: 0 embedded; switched: other (fp32) -> fake (fp32); undo with `gte "
        "index rollback`\n"
    )
    assert model(place) == "fake"


def test_without_the_old_one_there_is_no_way_back(place):
    result = gte("index", "switch", place, "--model", "other", "--drop-old")
    assert result.stderr.endswith("the old index was deleted\n")
    result = gte("index", "rollback", place)
    assert result.exit_code == 1
    assert "has no generation to go back to: it was not switched, or the old one" in result.stderr


def test_questions_without_answers_are_compared(place, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text("document 3 of grass\nred cat\nlaw\n")
    result = gte("index", "switch", place, "--model", "other", "--queries", file, "--hold")
    assert result.exit_code == 0, result.output
    head = result.stdout.splitlines()[0]
    assert re.fullmatch(
        r"3 queries: overlap@10 [01]\.\d\d, rank correlation -?0\.\d\d, the same first document in "
        r"\d+%",
        head,
    )
    assert "    was  " in result.stdout
    assert result.stderr.endswith(
        "not switched: fake (fp32) -> other (fp32) is built; repeat the command to switch\n"
    )
    assert model(place) == "fake"
    result = gte("index", "switch", place, "--model", "other", "--queries", file, "--json")
    row = json.loads(result.stdout)
    assert row["switched"] is True
    assert row["documents"]["embedded"] == 0
    assert row["comparison"]["questions"] == 3
    assert row["comparison"]["nDCG@10"] is None
    assert len(row["comparison"]["changes"][0]["new"]) == 10


def test_a_model_that_answers_worse_is_refused(place, tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    file = tmp_path / "questions.jsonl"
    rows = [{"query": f"document {n} of tax", "relevant": [str(n)]} for n in range(20)]
    rows[0]["relevant"].append("gone")
    file.write_text("\n".join(map(json.dumps, rows)))
    original = compare.ranking

    def worse(base, text):
        found = original(base, text)
        return found if base.identity.model == "fake" else ("15", "16", "17")

    monkeypatch.setattr(compare, "ranking", worse)
    result = gte("index", "switch", place, "--model", "other", "--queries", file)
    assert result.exit_code == 1
    assert "warning: 'document 0 of tax': `gone` is not in the index" in result.stderr
    assert "error: the new model is worse on these queries: not switched" in result.stderr
    assert "hint: --force switches anyway" in result.stderr
    (line,) = [one for one in result.stdout.splitlines() if one.startswith("nDCG@10")]
    assert re.search(r"p = \S+, 20 queries\)$", line)
    assert model(place) == "fake"
    forced = gte("index", "switch", place, "-m", "other", "--queries", file, "--force", "--json")
    row = json.loads(forced.stdout)
    assert (row["switched"], row["comparison"]["nDCG@10"]["n"]) == (True, 20)
    assert row["comparison"]["nDCG@10"]["difference"] < 0
    assert model(place) == "other"


def test_a_missing_extra_is_told_before_the_work(place, tmp_path, monkeypatch):
    from opengte.errors import MissingExtraError
    from opengte.evaluate import significance

    def missing(name):
        raise MissingExtraError("scipy", "eval", "comparing systems")

    monkeypatch.setattr(significance, "_scipy", missing)
    file = tmp_path / "questions.jsonl"
    file.write_text('{"query": "a", "relevant": ["1"]}')
    result = gte("index", "switch", place, "--model", "other", "--queries", file)
    assert result.exit_code == 1
    assert "opengte[eval]" in result.stderr
    assert sorted(path.name for path in place.iterdir()) == ["lance", "opengte-kb.json"]


def test_the_same_model_in_another_precision(place, monkeypatch):
    monkeypatch.setenv("GTE_MODEL", "other")  # the environment names no model to switch to
    result = gte("index", "switch", place, "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert "fake (fp32) -> fake (int8)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Specify what to switch to: --model, --precision or --max-length."),
        (("--model", "minilm"), 1, "is in `fake` (fp32), with these settings, already"),
        (("--model", "other", "--queries", "nowhere.txt"), 2, "does not exist"),
    ],
)
def test_wrong_usage(place, arguments, code, message):
    result = gte("index", "switch", place, *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())


def test_what_is_no_index(tmp_path):
    for command in (("switch", tmp_path, "-m", "x"), ("rollback", tmp_path)):
        result = gte("index", *command)
        assert result.exit_code == 1
        assert "is not an index" in result.stderr


def test_an_interrupted_switch_says_that_it_continues(place, monkeypatch):
    def stop(self, notify):
        raise KeyboardInterrupt

    monkeypatch.setattr(Migration, "build", stop)
    result = gte("index", "switch", place, "--model", "other")
    assert result.exit_code == 130
    assert "hint: the index is unchanged; repeat the command to resume" in result.stderr


# --- how rankings are compared -------------------------------------------------------------------

RANKING = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


@given(RANKING, RANKING)
@settings(deadline=None)  # the first example imports scipy
def test_rank_correlation_against_scipy(a, b):
    stats = pytest.importorskip("scipy.stats")
    names = list(dict.fromkeys([*a, *b]))
    mine = compare.kendall_tau(a, b)
    if len(names) < 2:
        assert mine == float(a == b)
        return
    x, y = ([one.index(name) if name in one else len(names) for name in names] for one in (a, b))
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert mine == 0.0
        return
    assert mine == pytest.approx(stats.kendalltau(x, y).statistic)


def test_the_most_changed_comes_first(place):
    from opengte.search.calibration.questions import Question
    from opengte.search.index import Index

    base = Index.open(place, load=index_switch_load)
    found = compare.compare_indexes(base, base, [Question("law"), Question("tax", {"10": 1.0})])
    assert (found.overlap, found.correlation, found.same_first) == (1.0, 1.0, 1.0)
    assert [one.values is None for one in found.changes].count(True) == 1
    old, new = found.values
    assert old == new
    changed = compare.ranking_change(Question("x"), ("a", "b"), ("b", "c"))
    assert (changed.overlap, changed.values) == (0.5, None)


def index_switch_load(identity):
    return WordEncoder.load(identity.model, max_length=identity.max_length)
