"""`gte train`: from files of texts to a model that loads, and what it says on the way."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from opengte import Encoder, Reranker
from opengte import checkpoint as checkpoints
from opengte.cli import main
from opengte.cli.train import options as train_options
from opengte.data import Dataset
from tests.support import train_small as small
from tests.support.training_data import write_lines


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("start")).folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)
    write_lines(tmp_path / "pairs.jsonl", small.pairs(120))
    return tmp_path


def gte(*arguments: object):
    return CliRunner().invoke(main, ["train", *(str(a) for a in arguments)])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


QUICK = ("--steps", 4, "--batch", 8, "--document-tokens", 32, "--query-tokens", 32)


def test_fine_tuning_from_a_file(folder, start):
    result = gte("finetune", "-m", start, "--data", "pairs.jsonl", "-o", "out", *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stdout == "out/model\n"
    for line in (
        "pairs: pairs (query=query, positive=positive)",
        "train: pairs 114 rows",
        "dev: pairs 6 rows",
        "4 steps of 8 rows",
        " after\n",
        'use it: opengte.Encoder.load("out/model")',
    ):
        assert line in result.stderr
    assert Encoder.load("out/model").encode("a red cat").shape == (64,)
    found = json.loads((folder / "out/result.json").read_text())
    assert list(found["after"]) == list(found["before"]) == ["nDCG@10"]
    mined = Dataset.open(folder / "out/data/train").sources[0]
    assert mined.get(np.arange(mined.rows)).negative_counts.max() == 4
    card = (folder / "out/model/README.md").read_text()
    assert "| pairs | pairs | 114 |" in card


def test_a_query_is_never_on_both_sides(folder, start):
    rows = small.pairs(60)
    write_lines(folder / "pairs.jsonl", [*rows, *({**r, "positive": "other"} for r in rows)])
    options = ("--held-out", 0.3, "--mine", 0)
    result = gte("finetune", "-m", start, "--data", "pairs.jsonl", "-o", "out", *QUICK, *options)
    assert result.exit_code == 0, result.output
    sides = [
        {row["query"] for row in read(folder / f"out/data/pairs.{n}.jsonl")}
        for n in ("train", "dev")
    ]
    assert len(sides[1]) == 18
    assert not sides[0] & sides[1]


def test_prepared_data_and_a_dev_set_of_ones_own(folder, start):
    checkpoint = checkpoints.read_checkpoint(start)
    small.data(folder, checkpoint, small.pairs(60), "ready")
    write_lines(folder / "dev.jsonl", small.pairs(30, seed=1))
    arguments = ("--data", "ready-data", "--dev", "mine=dev.jsonl", "-o", "out", *QUICK)
    result = gte("finetune", "-m", start, *arguments)
    assert result.exit_code == 0, result.output
    assert "dev: mine 30 rows" in result.stderr
    assert not (folder / "out/data/train").exists()
    write_lines(folder / "more.jsonl", small.pairs(30, seed=2))
    result = gte("finetune", "-m", "minilm", "--data", "ready-data", "-o", "other", *QUICK)
    assert result.exit_code == 1
    assert "was prepared with the tokenizer" in result.stderr


def test_a_finished_run_resumes_to_the_same_model(folder, start):
    first = gte("finetune", "-m", start, "--data", "pairs.jsonl", "-o", "out", *QUICK)
    assert first.exit_code == 0, first.output
    weights = folder / "out/model/model.safetensors"
    before = weights.read_bytes()
    again = gte("finetune", "-m", start, "--data", "pairs.jsonl", "-o", "out", *QUICK)
    assert "has a run of 4 steps: resume it" in again.stderr
    weights.unlink()
    result = gte("resume", "out")
    assert result.exit_code == 0, result.output
    assert weights.read_bytes() == before
    changed = ("--steps", 4, "--batch", 4, "--document-tokens", 32, "--query-tokens", 32)
    arguments = ("-m", start, "--data", "pairs.jsonl", "-o", "out", "--resume", *changed)
    result = gte("finetune", *arguments)
    assert result.exit_code == 1
    assert "cannot be resumed with another configuration: " in result.stderr
    other = ("-m", start, "--data", "other=pairs.jsonl", "-o", "out", *QUICK, "--resume")
    result = gte("finetune", *other)
    assert "cannot be resumed: --data was pairs.jsonl, is now other=pairs.jsonl" in result.stderr


def test_resuming_what_is_no_run(folder, monkeypatch):
    (folder / "empty").mkdir()
    result = gte("resume", "empty")
    assert result.exit_code == 1
    assert "`empty` is not an --output of `gte train`" in result.stderr
    record = {"command": "finetune", "arguments": [], "folder": "/elsewhere", "model": "minilm"}
    (folder / "empty/command.json").write_text(json.dumps(record))
    assert "the run was started in `/elsewhere`" in gte("resume", "empty").stderr


def test_pre_training_from_nothing(folder):
    arguments = ("--data", "pairs.jsonl", "--vocabulary", 400, "--positions", 64, *QUICK)
    texts = [{"text": row["positive"]} for row in small.pairs(120)]
    write_lines(folder / "pairs.jsonl", texts)
    result = gte("pretrain", "-m", "new", "--from-nothing", "tiny", "-o", "out", *arguments)
    assert result.exit_code == 0, result.output
    assert "masked likelihood: " in result.stderr
    made = checkpoints.read_checkpoint("out/model", kind="encoder")
    assert made.plan.layers[0].attention.rope.theta == 160_000
    result = gte("pretrain", "-m", "bert", "--from-nothing", "tiny", "-o", "b", *arguments)
    assert "With --from-nothing, --model is `new`." in result.stderr
    assert result.exit_code == 2


def test_weak_pairs_then_a_longer_context(folder, start):
    result = gte("contrastive", "-m", start, "--data", "pairs.jsonl", "-o", "cpt", *QUICK)
    assert result.exit_code == 0, result.output
    assert checkpoints.read_checkpoint("cpt/model").plan.layers[0].attention.rope.ntk_factor == 2.0
    arguments = ("--data", "pairs.jsonl", "-o", "long", "--positions", 128, "--steps", 1)
    result = gte("extend", "-m", "cpt/model", *arguments)
    assert result.exit_code == 0, result.output
    assert checkpoints.read_checkpoint("long/model").max_length == 128
    for line in ("passkey in 128 tokens, before: ", "needle in 64 tokens, after: "):
        assert line in result.stderr


def test_instruction_tuning_from_nothing(folder):
    lora = pytest.importorskip("peft") and 2
    result = gte(
        *("instruct", "-m", "qwen2", "--from-nothing", "tiny", "--vocabulary", 400),
        *("--data", "pairs.jsonl", "-o", "out", "--instruction", "Find the same words."),
        *("--steps", 2, "--batch", 8, "--lora", lora, "--query-tokens", 120),
    )
    assert result.exit_code == 0, result.output
    model = Encoder.load("out/model")
    assert model.card.instruction_template is not None
    one = model.encode_query("red cat", instruction="Find the same words.")
    assert not np.allclose(one, model.encode_query("red cat", instruction="Find others."))
    assert Dataset.open("out/data/train").sources[0].instruction == "Find the same words."
    assert model.card.default_instruction == "Find the same words."
    np.testing.assert_array_equal(model.encode_query("red cat"), one)
    saved = json.loads((folder / "out/model/config_sentence_transformers.json").read_text())
    assert saved["prompts"]["query"] == "Instruct: Find the same words.\nQuery: "


def test_a_reranker_with_a_miner(folder, start):
    arguments = ("--data", "pairs.jsonl", "-o", "out", "--miner", start, "--mine", 2, *QUICK)
    result = gte("rerank", "-m", start, *arguments, "--max-length", 48)
    assert result.exit_code == 0, result.output
    assert "MRR: " in result.stderr
    assert 'opengte.Reranker.load("out/model")' in result.stderr
    reranker = Reranker.load("out/model")
    assert reranker.card.max_length == 48
    assert reranker.score("red cat", ["red cat", "dog"]).shape == (2,)


def test_distillation_to_fewer_layers(folder, start):
    arguments = ("--data", "pairs.jsonl", "-o", "out", "--mine", 2, *QUICK)
    result = gte("distill", "-m", start, "--layers", 1, *arguments)
    assert result.exit_code == 0, result.output
    assert Encoder.load("out/model").card.layers == 1
    row = read(folder / "out/data/pairs.scored.jsonl")[0]
    teacher = Encoder.load(start)
    texts = [row["positive"], *row["negative"]]
    expected = teacher.encode_document(texts) @ teacher.encode_query(row["query"])
    np.testing.assert_allclose(row["scores"], expected, atol=1e-3)
    result = gte("distill", "-m", start, "--data", "pairs.jsonl", "-o", "other")
    assert "Give --layers or --student." in result.stderr


def test_merging(folder, start, tmp_path_factory):
    other = small.model(tmp_path_factory.mktemp("other"), seed=1).folder
    result = gte("merge", start, other, "--slerp", 0.3, "-o", "merged")
    assert (result.exit_code, result.stdout) == (0, "merged\n")
    assert Encoder.load("merged").encode("red cat").shape == (64,)
    assert "is not empty; give a new folder" in gte("merge", start, other, "-o", "merged").stderr
    result = gte("merge", start, other, start, "--slerp", 0.3, "-o", "more")
    assert "--slerp takes exactly two models and no --weight." in result.stderr


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "`bad.jsonl` has no rows; expected at least one"),
        ('{"query": "only"}\n', "bad.jsonl"),
    ],
)
def test_data_that_cannot_be_used(folder, start, content, error):
    (folder / "bad.jsonl").write_text(content)
    result = gte("finetune", "-m", start, "--data", "bad.jsonl", "-o", "out", *QUICK)
    assert result.exit_code == 1
    assert error in result.stderr
    assert not (folder / "out/run").exists()


def test_a_batch_larger_than_the_data(folder, start):
    arguments = ("--data", "pairs.jsonl", "-o", "out", "--steps", 1, "--batch", 999)
    result = gte("finetune", "-m", start, *arguments, "--mine", 0)
    assert result.exit_code == 1
    assert "sources smaller than a batch of" in result.stderr


def test_no_data():
    result = gte("finetune", "-m", "minilm", "-o", "out")
    assert result.exit_code == 2
    assert "Give --data PATH, or --sources FILE." in result.stderr


@pytest.mark.parametrize(
    ("text", "amount"), [("500000", 500_000), ("20M", 20_000_000), ("1.5b", 1_500_000_000)]
)
def test_amounts(text, amount):
    assert train_options.parse_token_count(text) == amount


@pytest.mark.parametrize("option", [("--tokens", "many"), ("--tokens", "0"), ("--matryoshka", "a")])
def test_numbers_that_are_none(option):
    result = gte("finetune", "-m", "minilm", "--data", "x", "-o", "out", *option)
    assert result.exit_code == 2
    assert f"{option[1]!r} is not a " in result.stderr
