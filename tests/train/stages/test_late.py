"""Training of late interaction: it learns, resumes, and others read what it writes."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from opengte import LateInteraction
from opengte.arch.plan import Dense
from opengte.cli import main
from opengte.train.objectives import LateContrastive
from opengte.train.saving.checkpoints import list_checkpoints
from opengte.train.stages.late import LateRecipe, late_start, train_late
from opengte.train.stages.runner import StageJob
from tests.support import train_small as small
from tests.support.training_data import write_lines

QUESTIONS = ["red cat river", "the lazy dog eats", "document 12"]
RECIPE = LateRecipe(steps=30, batch=16, learning_rate=1e-3, width=16, query_tokens=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def done(tmp_path_factory, encoder):
    folder = tmp_path_factory.mktemp("late")
    ready = late_start(encoder, RECIPE)
    train = small.data(folder, ready, small.pairs(300, negatives=2))
    dev = small.data(folder, ready, small.pairs(200, seed=1), "dev")
    return train_late(encoder, train, small.job(folder, dev), RECIPE)


def test_it_learns_to_rank(done):
    assert done.after["nDCG@10"] > done.before["nDCG@10"]
    card = (done.model / "README.md").read_text()
    assert "LateInteraction.load" in card


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_the_model_is_what_sentence_transformers_reads(done, engine):
    transformers = pytest.importorskip("sentence_transformers")
    theirs = transformers.MultiVectorEncoder(str(done.model), device="cpu", local_files_only=True)
    ours = LateInteraction.load(done.model, engine=engine, precision="fp32")
    assert ours.card.late["query_length"] == 16
    for role in ("query", "document"):
        found = getattr(ours, f"encode_{role}")(QUESTIONS)
        expected = getattr(theirs, f"encode_{role}")(QUESTIONS, convert_to_numpy=True)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


def test_trained_texts_are_those_of_the_model(tmp_path, encoder, done):
    """Rows are prepared with the markers and the lengths that the model is written with."""
    ready = late_start(encoder, RECIPE)
    assert ready.plan.token_dense == (Dense(16, False, "identity"),)
    model = LateInteraction.load(done.model, precision="fp32")
    data = small.data(tmp_path, ready, small.pairs(8))
    source = data.sources[0]
    own = source.pack(source.get(np.arange(1)).queries, "query", 16)
    asked = small.pairs(8)[0]["query"]
    encoded = model.encoder.tokenizer.encode(
        [asked], prompt=model.card.prompts["query"], max_length=16
    )
    assert own.ids.tolist() == encoded.batch.ids.tolist()


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, encoder):
    ready = late_start(encoder, RECIPE)
    train = small.data(tmp_path, ready, small.pairs(80, negatives=1))
    recipe = LateRecipe(steps=6, batch=8, width=8)
    whole = train_late(encoder, train, StageJob(output=tmp_path / "whole"), recipe)
    options = {"save_every": 3}
    parted = StageJob(output=tmp_path / "parted", options=options)
    train_late(encoder, train, parted, recipe)
    shutil.rmtree(list_checkpoints(tmp_path / "parted/run")[6])  # as if it was stopped before
    again = StageJob(output=tmp_path / "parted", options=options, resume=True)
    resumed = train_late(encoder, train, again, recipe)
    for name in ("model.safetensors", "1_Dense/model.safetensors"):
        assert (whole.model / name).read_bytes() == (resumed.model / name).read_bytes()


def test_distillation_follows_the_teacher(tmp_path, encoder):
    rows = small.pairs(100, negatives=2)
    for number, row in enumerate(rows):
        row["scores"] = [1.0, 0.5, -float(number % 3)]  # of the positive, and the negatives
    recipe = LateRecipe(steps=2, batch=8, width=8)
    train = small.data(tmp_path, late_start(encoder, recipe), rows)
    results = {}
    for weight in (0.0, 4.0):
        job = StageJob(output=tmp_path / f"out{weight}")
        chosen = LateRecipe(steps=2, batch=8, width=8, distil=weight)
        made = train_late(encoder, train, job, chosen).model
        results[weight] = (made / "1_Dense" / "model.safetensors").read_bytes()
    assert train.sources[0].get(np.arange(1)).positive_scores is not None
    assert results[0.0] != results[4.0]


def test_the_command(tmp_path, encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "pairs.jsonl", small.pairs(60))
    options = ["--steps", "2", "--batch", "8", "--query-tokens", "16", "--document-tokens", "32"]
    arguments = ["train", "late", "-m", str(encoder.folder), "--data", "pairs.jsonl", "-o", "out"]
    result = CliRunner().invoke(main, [*arguments, "--width", "8", *options])
    assert result.exit_code == 0, result.output
    assert 'opengte.LateInteraction.load("out/model")' in result.stderr
    assert LateInteraction.load("out/model", precision="fp32").card.dimension == 8


def test_an_objective_without_dense_vectors():
    assert LateContrastive(distil=1.0).outputs == ("tokens",)
