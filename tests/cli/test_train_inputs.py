"""What `gte train` keeps: of its inputs, of the rows that it was given, and of its checkpoints."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from opengte.cli import main
from opengte.data import Dataset
from tests.support import train_small as small
from tests.support.training_data import write_lines

QUICK = ("--steps", 2, "--batch", 8, "--document-tokens", 32, "--query-tokens", 32)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("start")).folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)
    write_lines(tmp_path / "pairs.jsonl", small.pairs(60))
    return tmp_path


def gte(*arguments: object):
    return CliRunner().invoke(main, ["train", *(str(a) for a in arguments)])


def finetune(start, *arguments: object):
    return gte("finetune", "-m", start, "-o", "out", *QUICK, *arguments)


def state(folder) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_command_that_failed_does_not_stand_in_the_way(folder, start):
    mistakes = [
        ("--data", "nope.jsonl"),
        ("--data", "pairs.jsonl", "--positive", "positiv", "--query", "query"),
        ("--data", "pairs.jsonl", "--mine", 1, "--matryoshka", 999),
        ("--data", "pairs.jsonl", "--mine", 1, "--batch", 999),
    ]
    for mistake in mistakes:
        result = finetune(start, *mistake)
        assert result.exit_code == 1, result.output
        assert "{" not in result.stderr
    result = finetune(start, "--data", "pairs.jsonl", "--mine", 0)
    assert result.exit_code == 0, result.output


def test_a_changed_file_is_read_again(folder, start):
    first = finetune(start, "--data", "pairs.jsonl", "--mine", 1, "--batch", 999)
    assert first.exit_code == 1
    write_lines(folder / "pairs.jsonl", small.pairs(30))
    result = finetune(start, "--data", "pairs.jsonl", "--mine", 1)
    assert result.exit_code == 0, result.output
    assert "`pairs.jsonl` has changed" in result.stderr
    found = (Dataset.open(f"out/data/{part}").rows for part in ("train", "dev"))
    assert sum(found) == 30
    before = state(folder / "out")
    write_lines(folder / "pairs.jsonl", small.pairs(20))
    for more in ((), ("--resume",), ("--resume", "--held-out", 0.1)):
        result = finetune(start, "--data", "pairs.jsonl", "--mine", 1, *more)
        assert result.exit_code == 1
        assert "has a run of 2 steps" in result.stderr
    assert "`pairs.jsonl` has changed" in result.stderr
    assert "--held-out was 0.05, is now 0.1" in result.stderr
    assert state(folder / "out") == before


def test_what_an_interrupted_command_made_is_used_again(folder, start, monkeypatch):
    arguments = ("--data", "pairs.jsonl", "--mine", 1)
    assert finetune(start, *arguments, "--batch", 999).exit_code == 1
    shutil.rmtree(folder / "out/data/train")
    monkeypatch.setattr("opengte.data.mining.files.mine_hard_negatives", None)
    result = finetune(start, *arguments)
    assert result.exit_code == 0, result.output


def test_files_of_others_are_never_removed(folder, start):
    (folder / "data").mkdir()
    shutil.move(folder / "pairs.jsonl", folder / "data/pairs.jsonl")
    arguments = ("finetune", "-m", start, "-o", ".", *QUICK, "--data", "data/pairs.jsonl")
    result = gte(*arguments)
    assert "`data` exists and was not written by `gte train`" in result.stderr
    assert (folder / "data/pairs.jsonl").exists()


def test_rows_that_cannot_be_read_are_reported_at_their_place(folder, start):
    lines = [b"question,answer"]
    for number in range(20):
        lines += [
            b"ask %d,say %d" % (number, number),
            b"ask \xe9 %d,say" % number,
            b"why %d," % number,
        ]
    (folder / "mixed.csv").write_bytes(b"\n".join(lines) + b"\n")
    result = finetune(start, "--data", "mixed.csv", "--held-out", 0.1, "--mine", 1)
    assert result.exit_code == 0, result.output
    assert (
        "mixed: 40 of 60 rows dropped: unusable row 40 (mixed.csv:3 is not UTF-8" in result.stderr
    )
    report = (folder / "out/data/train/report.md").read_text()
    for line in (3, 4, 6, 7, 60, 61):
        assert f"- mixed.csv:{line}: " in report
    assert "`answer` has no text" in report
    assert Dataset.open("out/data/train").sources[0].origin(0)[0] == "mixed.csv"


def test_rows_without_negatives_get_mined_ones_whatever_the_others_have(folder, start):
    rows = small.pairs(40)
    rows[3]["negative"] = ["given"]
    write_lines(folder / "some.jsonl", rows)
    result = finetune(start, "--data", "some.jsonl", "--held-out", 0, "--mine", 2, "--margin", 1)
    assert result.exit_code == 0, result.output
    assert "negatives for 39 rows" in result.stderr
    source = Dataset.open("out/data/train").sources[0]
    counts = source.get(np.arange(source.rows)).negative_counts
    assert counts[3] == 1
    assert np.delete(counts, 3).min() == 2


def test_few_negatives_are_a_warning(folder, start):
    write_lines(folder / "pairs.jsonl", small.pairs(20))
    result = finetune(start, "--data", "pairs.jsonl", "--mine", 50)
    assert "warning: pairs: found " in result.stderr
    assert " of 950 wanted negatives; " in result.stderr
    assert "Raise the margin" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_device_is_checked_before_any_work(folder, start):
    result = finetune(start, "--data", "pairs.jsonl", "--device", "cuda")
    assert result.exit_code != 0
    assert "device is 'cuda', which PyTorch cannot use here: " in result.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize("wrong", [("--matryoshka", 999), ("--tensorboard",)])
def test_options_are_checked_before_any_work(folder, start, monkeypatch, wrong):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = finetune(start, "--data", "pairs.jsonl", *wrong)
    assert result.exit_code != 0
    assert "negatives for" not in result.stderr
    assert str(wrong[0]) in result.stderr
    assert not (folder / "out/data").exists()


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_best_evaluation_is_kept_and_any_checkpoint_can_be_exported(folder, start):
    arguments = ("--mine", 0, "--held-out", 0.3, "--evaluate-every", 1, "--steps", 6)
    rate = ("--learning-rate", 0.3, "--data", "pairs.jsonl")  # far too high
    result = finetune(start, *arguments, *rate)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out/result.json").read_text())
    (name,) = found["after"]
    assert found["after"][name] > found["last"][name]
    assert found["kept"] < found["steps"] == 6
    assert f"kept step {found['kept']}: {name} {found['after'][name]:.4f}, " in result.stderr
    assert found["before"][name] > found["after"][name]
    assert "warning: the model was better before training" in result.stderr
    before = state(folder / "out")
    result = gte("export", "out", "--step", found["kept"], "--output", "best")
    assert (result.exit_code, result.stdout) == (0, "best\n"), result.output
    assert weights(folder / "best") == weights(folder / "out/model")
    assert gte("export", "out", "--step", 6).exit_code == 0
    assert weights(folder / "out/model-step-6") != weights(folder / "out/model")
    after = state(folder / "out")
    assert {path: after[path] for path in before} == before
    assert "has the checkpoints " in gte("export", "out", "--step", 77).stderr


def test_training_ends_when_it_does_not_become_better(folder, start):
    arguments = ("--data", "pairs.jsonl", "--mine", 0, "--held-out", 0.3, "--steps", 40)
    rate = ("--learning-rate", 0.3, "--evaluate-every", 1, "--patience", 2, "--keep", "last")
    result = finetune(start, *arguments, *rate)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out/result.json").read_text())
    assert found["steps"] < 40
    assert found["kept"] == found["steps"]
    assert found["after"] == found["last"]


def test_patience_needs_evaluations(folder, start):
    result = finetune(start, "--data", "pairs.jsonl", "--patience", 2)
    assert "patience counts evaluations: give evaluate_every" in result.stderr
    assert not (folder / "out/data").exists()
