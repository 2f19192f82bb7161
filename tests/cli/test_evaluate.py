"""`gte eval` from the command line, with an encoder of hashed words."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import opengte
from opengte.cli.evaluate import command
from opengte.evaluate import records
from opengte.evaluate.records import MtebRun, TaskRun, TaskScore
from tests.support.evaluation import HashEncoder, beir
from tests.support.installed import needs

needs("ir_measures", "scipy")


class Loads:
    """Stands where `opengte.Encoder` is."""

    @classmethod
    def load(cls, model: str, *, max_length: int | None = None, **settings: Any) -> HashEncoder:
        return HashEncoder(6.0 if model == "bad" else 0.0, max_length or 100_000, name=model)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengte, "Encoder", Loads, raising=False)


def gte(*args: object) -> Result:
    return CliRunner().invoke(command, list(map(str, args)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return beir(tmp_path / "beir")


def test_compare_prints_a_verdict_and_writes_reports(data: Path, tmp_path: Path) -> None:
    page, text = tmp_path / "r.html", tmp_path / "r.md"
    done = gte("compare", "good", "bad", "--data", data, "--report", page, "--report", text)
    assert done.exit_code == 0, done.output
    assert "bad is worse than good" in done.stdout
    assert page.read_text().startswith("<!doctype html>") and text.read_text().startswith("# good")


def test_compare_json_is_one_object(data: Path) -> None:
    done = gte("compare", "good", "good,dimensions=8", "--data", data, "--json")
    value = json.loads(done.stdout)
    assert value["data"]["systems"][1]["cost"]["vector_bytes"] == 32


def test_sweep_and_check(data: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    wide = ("--dimensions", "8,64", "--report")
    assert gte("sweep", "good", "--data", data, *wide, old).exit_code == 0
    assert gte("sweep", "good", "--data", data, *wide, new).exit_code == 0
    fine = gte("check", new, "--baseline", old)
    assert (fine.exit_code, fine.stdout) == (0, "None of 2 scores fell by more than noise.\n")
    value = json.loads(new.read_text())
    for system in value["data"]["systems"]:
        found = system["measures"]["nDCG@10"]
        system["measures"]["nDCG@10"] = {query: x / 3 for query, x in found.items()}
    new.write_text(json.dumps(value))
    fell = gte("check", new, "--baseline", old)
    assert fell.exit_code == 1 and "2 of 2 scores fell" in fell.stdout


def test_check_reads_records_of_runs(tmp_path: Path) -> None:
    score = TaskScore("STS13", "STS", "default", "test", "cosine_spearman", 80.0, 0.05, False)
    run = MtebRun("m", {}, (TaskRun("STS13", "done", scores=(score,)),))
    records.write_run(tmp_path / "run.json", run)
    done = gte("check", tmp_path / "run.json", "--baseline", tmp_path / "run.json", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["fell"] is False


def test_needle_shows_where_a_model_goes_blind(tmp_path: Path) -> None:
    report = tmp_path / "needle.html"
    lengths = ("--lengths", "64,256", "--documents", 4, "--max-length", 64)
    done = gte("needle", "good", *lengths, "--report", report)
    assert done.exit_code == 0, done.output
    assert "reads 64 tokens" in report.read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["sweep", "good", "--dimensions", "x"], "expected whole numbers"),
        (["sweep", "good", "--depth", "5"], "--depth needs --reranker"),
        (["compare", "good", "bad", "--columns", "one"], "expected two names"),
        (["run", "good"], "Give --tasks, --suite, or --data"),
        (["compare", "good"], "Missing argument 'B'"),
    ],
)
def test_wrong_usage(args: list[str], said: str, data: Path) -> None:
    extra = [] if args[0] == "run" else ["--data", str(data)]
    done = gte(*args, *extra)
    assert done.exit_code == 2 and said in done.stderr


def test_bad_data_stops_before_a_model_is_loaded(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Loads, "load")
    (data / "queries.jsonl").write_text("")
    done = gte("compare", "good", "bad", "--data", data)
    assert "queries.jsonl` is empty" in str(done.exception)


def test_a_report_of_unknown_form_is_refused_first(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Loads, "load")
    done = gte("compare", "good", "bad", "--data", data, "--report", "r.pdf")
    assert "ends in .html, .md, .json" in str(done.exception)


def test_help_is_light() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\n"
        "from opengte.cli.evaluate import command\n"
        "for args in ([], ['run'], ['compare'], ['sweep'], ['needle'], ['check']):\n"
        "    done = CliRunner().invoke(command, [*args, '--help'])\n"
        "    assert done.exit_code == 0, done.output\n"
        "    assert not args or 'Example' in done.output\n"
        "assert not {'torch', 'numpy', 'mteb', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_model_may_stand_where_a_subcommand_does() -> None:
    done = gte("minilm", "--nothing")
    assert done.exit_code == 2 and "eval run" in done.stderr
