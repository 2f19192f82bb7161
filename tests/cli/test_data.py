"""`gte data`: what its commands print, write and refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

import opengte
from opengte import checkpoint
from opengte.cli import main
from opengte.data import Dataset
from opengte.tokenization import Prompts
from tests.support.fake_models import CARD, FakeEncoder
from tests.support.training_data import pairs, tokenizer, write_lines


class Reranker:
    @classmethod
    def load(cls, model, **settings):
        return cls()

    def score(self, query, documents):
        import numpy as np

        return np.array([len(set(query) & set(d)) for d in documents], dtype=np.float32)


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    own = tokenizer(tmp_path / "model")
    read = SimpleNamespace(
        tokenizer=own, prompts=Prompts(), max_length=64, card=replace(CARD, fingerprint="fake")
    )
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda model, **options: read)
    monkeypatch.setattr(opengte, "Encoder", FakeEncoder, raising=False)
    monkeypatch.setattr(opengte, "Reranker", Reranker, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)
    return read


def gte(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


@pytest.fixture
def source(tmp_path):
    return write_lines(tmp_path / "a.jsonl", [*pairs(40, 2), *pairs(3, 2), {"query": 5}])


def test_prepare_says_what_columns_are_and_what_was_dropped(tmp_path, source):
    out = tmp_path / "out"
    result = gte("prepare", f"web={source}", "--output", out)
    assert result.exit_code == 0, result.output
    assert "web: pairs (query=query, positive=positive, negative=negative)\n" in result.stderr
    assert result.stdout.splitlines() == [
        "source  rows  kept  dropped",
        "web       44    40  duplicate row 3, unusable row 1",
    ]
    assert f"wrote `{out}`; `{out / 'report.md'}` lists what was dropped" in result.stderr
    (source_,) = Dataset.open(out).sources
    assert (source_.name, source_.rows) == ("web", 40)
    again = gte("prepare", f"web={source}", "--output", out, "--json")
    record = json.loads(again.stdout)
    assert (record["source"], record["kept"]) == ("web", 40)
    assert record["dropped"] == {"duplicate row": 3, "unusable row": 1}


def test_prepare_takes_columns_limits_and_switches(tmp_path):
    (tmp_path / "a.tsv").write_text("en\tfr\tfile\ncat\tchat\tx\na b c d e f g h\tun deux\ty\n")
    options = ["--query", "en", "--positive", "fr", "--max-tokens", 8, "--query-tokens", 16]
    result = gte(
        "prepare", tmp_path / "a.tsv", *options, "--no-in-batch-negatives", "-o", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    (source,) = Dataset.open(tmp_path / "out").sources
    assert (source.name, source.rows, source.in_batch_negatives) == ("a", 1, False)
    assert "too long 1" in result.stdout


def test_prepare_excludes_a_benchmark(tmp_path, source):
    bench = write_lines(tmp_path / "queries.jsonl", [{"_id": "1", "text": "What is 7"}])
    result = gte("prepare", source, "-o", tmp_path / "out", "--exclude", bench)
    assert f"excluding 1 texts of `{bench}`" in result.stderr
    assert "in the excluded texts 1" in result.stdout


def test_prepare_filters_by_the_rank_of_positives(tmp_path):
    rows = [{"query": f"ask: w{i}", "positive": f"w{i}"} for i in range(20)]
    rows += [{"query": "ask: w3 w4", "positive": "else entirely different words here"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    out = tmp_path / "out"
    result = gte("prepare", path, "-o", out, "--consistent", 3, "--pool", 50)
    assert result.exit_code == 0, result.output
    filters = Dataset.open(out).manifest["made_from"]["filters"]
    assert filters["consistency"] == {"model": "fake", "keep": 3, "pool": 50, "seed": 0}
    assert "positive ranks too low" in result.stdout


def test_prepare_reads_a_file_of_sources(tmp_path, source):
    (tmp_path / "s.toml").write_text(
        '[[source]]\nname = "one"\npath = "a.jsonl"\nweight = 2.5\n[[source]]\npath = "t.txt"\n'
    )
    (tmp_path / "t.txt").write_text("raw text of some words\n")
    result = gte("prepare", "--sources", tmp_path / "s.toml", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = {s.name: (s.kind, s.weight) for s in Dataset.open(tmp_path / "out").sources}
    assert found == {"one": ("pairs", 2.5), "t": ("texts", 1.0)}
    shown = gte("show", tmp_path / "out").stdout.splitlines()
    assert shown[1].split() == ["one", "pairs", "40", *shown[1].split()[3:5], "yes", "2.5", "-"]
    assert shown[2].split()[:3] == ["t", "texts", "1"]


def test_prepare_reports_a_source_of_which_nothing_is_left(tmp_path, source):
    empty = write_lines(tmp_path / "b.jsonl", [{"query": "x", "positive": "X"}])
    result = gte("prepare", source, empty, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "error: no row of source `b` is left" in result.stderr
    assert Dataset.open(tmp_path / "out").rows == 40


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--output", "out"], 2, "Give at least one PATH"),
        (
            ["a.jsonl", "-o", "out", "--query-tokens", "99"],
            2,
            "The model takes at most 64 tokens, not 99",
        ),
        (["a.jsonl", "-o", "out", "--sources", "a.jsonl"], 2, "--sources excludes PATH, column"),
        (["none.jsonl", "-o", "out"], 1, "`none.jsonl` does not exist"),
        (["a.jsonl", "-o", "out", "--query", "quest", "--positive", "positive"], 1, "Did you mean"),
        (["a.jsonl", "-o", "out", "--instruction", "find"], 1, "model that takes none"),
        (["a.jsonl", "-o", "out", "--consistent", "5", "--pool", "5"], 1, "1 <= keep < pool"),
    ],
)
def test_prepare_refuses_what_makes_no_sense(
    tmp_path, source, monkeypatch, arguments, status, message
):
    monkeypatch.chdir(tmp_path)
    result = gte("prepare", *arguments)
    assert message in " ".join(result.stderr.split())
    assert result.exit_code == status
    assert not (tmp_path / "out").exists()


def test_show_prints_rows_with_their_places_and_texts(tmp_path, source):
    gte("prepare", source, "-o", tmp_path / "out")
    result = gte("show", tmp_path / "out", "--rows", 2, "--model", "m", "--check")
    lines = result.stdout.splitlines()
    assert result.stderr == "all shards match their checksums\n"
    assert lines[0] == f"a 0 ({source}:1)"
    assert lines[1] == "  query    [CLS] what is 0 [SEP]"
    assert [line.split()[0] for line in lines[4:]] == ["query", "positive", "negative"]
    row = json.loads(gte("show", tmp_path / "out", "--rows", 1, "--json").stdout)
    assert (row["source"], row["row"], row["file"], row["place"]) == ("a", 0, str(source), 1)
    assert all(word.isdigit() for word in row["query"][0].split())


def test_show_prints_the_batch_of_a_step(tmp_path, source):
    gte("prepare", source, "-o", tmp_path / "out")
    options = ["--step", 7, "--batch", 4, "--seed", 3, "--json"]
    result = gte("show", tmp_path / "out", *options)
    rows = [json.loads(line)["row"] for line in result.stdout.splitlines()]
    from opengte.data import BatchSampler

    expected = BatchSampler.of(Dataset.open(tmp_path / "out"), seed=3, batch=4).at(7).rows
    assert rows == expected.tolist()


def test_show_refuses_other_folders_and_names(tmp_path, source):
    result = gte("show", tmp_path)
    assert "has no manifest.json; expected a folder that `gte data prepare` made" in result.stderr
    gte("prepare", source, "-o", tmp_path / "out")
    result = gte("show", tmp_path / "out", "--source", "b")
    assert (result.exit_code, "expected one of a" in result.stderr) == (2, True)


def test_show_refuses_another_tokenizer(tmp_path, source, fake):
    gte("prepare", source, "-o", tmp_path / "out")
    fake.tokenizer = replace(fake.tokenizer, lowercase=True)
    result = gte("show", tmp_path / "out", "--model", "other", "--rows", 1)
    assert "was prepared with the tokenizer" in result.stderr
    assert result.exit_code == 1


def test_mine_writes_negatives_and_counts(tmp_path, source):
    out = tmp_path / "m.jsonl"
    corpus = write_lines(tmp_path / "c.jsonl", ["far away", "what is 3"])
    options = ["-n", 3, "--margin", 1, "--corpus", corpus, "--last", 30]
    result = gte("mine", source, "--output", out, *options)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 43
    assert any(len(row["negative"]) >= 3 for row in rows)
    said = f"wrote 43 rows to `{out}`; 1 rows dropped (unusable row 1); `{out}.dropped.jsonl` has "
    assert said in result.stderr
    assert "taken" in result.stdout
    prepared = gte("prepare", out, "-o", tmp_path / "out")
    assert prepared.exit_code == 0
    again = gte("mine", source, "--output", tmp_path / "n.jsonl", *options, "--json")
    assert (tmp_path / "n.jsonl").read_text() == out.read_text()
    assert json.loads(again.stdout)["rows"] == 43


def test_mine_asks_a_reranker_and_writes_its_scores(tmp_path, source):
    out = tmp_path / "m.parquet"
    result = gte("mine", source, "-o", out, "--reranker", "r", "--scores", "--margin", 1)
    assert result.exit_code == 0, result.output
    assert "refused by the reranker" in result.stdout
    gte("prepare", out, "-o", tmp_path / "out")
    (one,) = Dataset.open(tmp_path / "out").sources
    assert one.get([0]).positive_scores is not None


def test_mine_refuses_what_makes_no_sense(tmp_path, source):
    result = gte("mine", source, "-o", tmp_path / "m.jsonl", "--scores")
    assert (result.exit_code, "--scores needs --reranker" in result.stderr) == (2, True)
    result = gte("mine", source, "-o", tmp_path / "m.txt")
    assert (result.exit_code, "unknown suffix" in result.stderr) == (1, True)
    result = gte("mine", source, "-o", tmp_path / "m.jsonl", "--first", 9, "--last", 3)
    assert (result.exit_code, "1 <= first <= last" in result.stderr) == (1, True)


SCRIPT = """
import sys, types
from pathlib import Path
from opengte import checkpoint
from opengte.tokenization import Prompts, load_tokenizer
from opengte.cli import main
import opengte.data.preparation.prepare as prepare
prepare.WINDOW = 64
own = load_tokenizer(Path(sys.argv.pop(1)))
read = types.SimpleNamespace(tokenizer=own, prompts=Prompts(), max_length=64)
checkpoint.read_checkpoint = lambda model, **options: read
main(["data", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path):
    root = Path(__file__).parents[2]
    path = write_lines(tmp_path / "a.jsonl", pairs(30_000, 3))
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    model = str(tmp_path / "model" / "tokenizer")

    def start(folder: str) -> subprocess.Popen:
        words = ["prepare", str(path), "-o", str(tmp_path / folder)]
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, model, *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("whole").wait(120) == 0
    killed = 0
    for delay in (0.7, 1.1, 1.6, 2.3, 3.0):
        running = start("out")
        time.sleep(delay)
        running.send_signal(signal.SIGKILL)
        killed += running.wait() != 0
    assert start("out").wait(120) == 0
    assert killed
    whole, out = (
        {str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "whole", tmp_path / "out")
    )
    assert whole == out
