"""The stages of training, each at a tiny size: what they change, and what they leave to load."""

import json
import warnings

import numpy as np
import pytest
import torch

from opengte import Encoder, Reranker
from opengte import checkpoint as checkpoints
from opengte.arch.plan import Rope
from opengte.errors import InputError
from opengte.train.models.loading import load_trainable
from opengte.train.models.lora import Adapters
from opengte.train.saving.checkpoints import STATE
from opengte.train.stages.base_models import create_model, read_encoder, read_pooled_encoder
from opengte.train.stages.contrastive import ContrastiveRecipe, pretrain_contrastive
from opengte.train.stages.distill import DistillationRecipe, distill, drop_layers
from opengte.train.stages.extend import ExtensionRecipe, extend_context
from opengte.train.stages.finetune import FineTuningRecipe, finetune
from opengte.train.stages.instruct import InstructionRecipe, read_decoder, tune_instructions
from opengte.train.stages.mlm import MlmRecipe, fit_phases, pretrain_mlm
from opengte.train.stages.rerank import RerankerRecipe, train_reranker
from tests.support import train_small as small

QUESTIONS = ["red cat river", "the lazy dog eats", "document 12"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("decoder"), architecture="qwen2", positions=160)


def rope(checkpoint) -> Rope:
    found = checkpoint.plan.layers[0].attention.rope
    assert found is not None
    return found


def same_everywhere(folder, text_prompt: str = "") -> None:
    """Both engines, and sentence-transformers, must give the same vectors."""
    expected = Encoder.load(folder, engine="torch").encode_document(QUESTIONS)
    found = Encoder.load(folder, engine="native", precision="fp32").encode_document(QUESTIONS)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    peer = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.SentenceTransformer(str(folder), device="cpu").encode(QUESTIONS)
    np.testing.assert_allclose(theirs, expected, atol=2e-5)


def test_fine_tuning_betters_a_model_that_loads_everywhere(tmp_path, encoder):
    train = small.data(tmp_path, encoder, small.pairs(400, negatives=2))
    dev = small.data(tmp_path, encoder, small.pairs(400, seed=1), "dev")
    recipe = FineTuningRecipe(steps=40, batch=32, learning_rate=1e-3)
    done = finetune(encoder, train, small.job(tmp_path, dev), recipe)
    assert done.after["nDCG@10"] > done.before["nDCG@10"]
    assert done.model == tmp_path / "out/model"
    same_everywhere(done.model)
    card = (done.model / "README.md").read_text()
    assert "nDCG@10, before" in card
    assert "rows" in card


def test_matryoshka_and_sparse_head(tmp_path, encoder):
    train = small.data(tmp_path, encoder, small.pairs(64))
    recipe = FineTuningRecipe(steps=2, batch=16, matryoshka=(32, 16), sparse=0.1)
    done = finetune(encoder, train, small.job(tmp_path), recipe)
    model = Encoder.load(done.model)
    assert "sparse" in model.card.outputs
    sparse = model.embed(QUESTIONS, outputs=("dense", "sparse")).sparse
    assert sparse is not None and len(sparse) == 3


def test_low_rank_adapters_change_the_weights_by_their_rank(tmp_path, encoder):
    pytest.importorskip("peft")
    train = small.data(tmp_path, encoder, small.pairs(64))
    recipe = FineTuningRecipe(steps=3, batch=16, learning_rate=1e-2, adapters=Adapters(2, 4.0))
    done = finetune(encoder, train, small.job(tmp_path), recipe)
    before = dict(load_trainable(encoder).named_parameters())
    after = dict(load_trainable(checkpoints.read_checkpoint(done.model)).named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        f"layers.{i}.{part}.weight" for i in range(2) for part in ("qkv", "out", "up", "down")
    }
    for name in moved:
        change = (after[name] - before[name]).double().detach()
        values = torch.linalg.svdvals(change)
        assert values[1] > 0 and values[2] < 1e-4 * values[0], name


def test_masked_language_modelling_in_two_phases(tmp_path, encoder):
    texts = [{"text": " ".join(row.values())} for row in small.pairs(200)]
    train = small.data(tmp_path, encoder, texts, query_tokens=64)
    recipe = MlmRecipe(steps=40, batch=16, learning_rate=6.0, seed=1)
    dev = small.data(tmp_path, encoder, texts[:50], "dev")
    done = pretrain_mlm(encoder, train, small.job(tmp_path, dev), recipe)
    assert done.steps == 40
    metric = "masked likelihood"
    assert done.after[metric] > 2 * done.before[metric]
    first = checkpoints.read_checkpoint(tmp_path / "out/model-phase-1", kind="encoder")
    last = checkpoints.read_checkpoint(done.model, kind="encoder")
    assert (rope(first).theta, rope(last).theta) == (10_000, 160_000)
    assert last.plan.pooling == "mean"
    assert Encoder.load(done.model).encode("red cat").shape == (64,)


def test_phases_are_shortened_together():
    recipe = MlmRecipe()
    assert [p.length for p in fit_phases(recipe.phases, 512)] == [128, 512]
    assert fit_phases(recipe.phases, 8192) == recipe.phases


def test_a_causal_decoder_cannot_fill_in(tmp_path, decoder):
    train = small.data(tmp_path, decoder, [{"text": text} for text in small.texts()[:50]])
    with pytest.raises(InputError, match="names no mask_token"):
        pretrain_mlm(decoder, train, small.job(tmp_path), MlmRecipe(steps=1, batch=4))


def test_reversed_ntk_is_written_and_read(tmp_path, encoder):
    train = small.data(tmp_path, encoder, small.pairs(64))
    recipe = ContrastiveRecipe(steps=2, batch=16, query_tokens=16, document_tokens=16)
    done = pretrain_contrastive(encoder, train, small.job(tmp_path), recipe)
    config = json.loads((done.model / "config.json").read_text())
    assert config["model_type"] == "new"
    assert config["rope_theta"] == 10_000 / 4
    assert config["rope_scaling"] == {"type": "ntk", "factor": 4.0}
    found = rope(checkpoints.read_checkpoint(done.model))
    assert found == Rope(2500.0, 4.0)
    same = ContrastiveRecipe(steps=2, batch=16, document_tokens=16, reversed_ntk=1.0)
    done = pretrain_contrastive(encoder, train, small.job(tmp_path / "plain"), same)
    assert rope(checkpoints.read_checkpoint(done.model)).ntk_factor == 1.0


def test_a_longer_context(tmp_path, encoder):
    longer = small.data(tmp_path, encoder, small.pairs(64, words=90), document_tokens=200)
    done = extend_context(encoder, longer, small.job(tmp_path), ExtensionRecipe(steps=2, batch=8))
    made = checkpoints.read_checkpoint(done.model)
    assert made.plan.max_positions == made.max_length == 256
    assert rope(made).theta == 160_000
    model = Encoder.load(done.model)
    assert int(model.embed("cat " * 200).token_counts[0]) == 202
    with pytest.raises(InputError, match="positions is 64, expected more than the 64"):
        extend_context(encoder, longer, small.job(tmp_path / "b"), ExtensionRecipe(positions=64))


def test_learned_positions_cannot_be_extended(tmp_path, encoder):
    bert = checkpoints.read_checkpoint("minilm")
    train = small.data(tmp_path, bert, small.pairs(40))
    with pytest.raises(InputError, match="the model has learned positions"):
        extend_context(bert, train, small.job(tmp_path), ExtensionRecipe(positions=1024))


def test_instruction_tuning_of_a_decoder(tmp_path, decoder):
    start = read_decoder(decoder.folder, tmp_path / "start")
    assert not start.plan.layers[0].attention.causal
    assert start.tokenizer.encode(["cat"], max_length=9).batch.ids[-1] == 0
    assert (tmp_path / "start/model.safetensors").is_symlink()
    train = small.data(tmp_path, start, small.pairs(200), query_tokens=128)
    dev = small.data(tmp_path, start, small.pairs(60, seed=1), "dev", query_tokens=128)
    recipe = InstructionRecipe(
        steps=40, batch=32, learning_rate=1e-3, adapters=None, temperature=0.05
    )
    done = tune_instructions(start, train, small.job(tmp_path, dev), recipe)
    assert done.after["nDCG@10"] > done.before["nDCG@10"]
    model = Encoder.load(done.model)
    assert model.card.instruction_template == "Instruct: {instruction}\nQuery: "
    assert model.card.pooling == "last"
    same_everywhere(done.model)


def test_an_encoder_is_no_decoder(tmp_path, encoder):
    with pytest.raises(InputError, match="expected a decoder: qwen2, qwen3, mistral"):
        read_decoder(encoder.folder, tmp_path / "start")


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_reranker(tmp_path, kind, request):
    start = request.getfixturevalue(kind)
    rows = small.pairs(200, negatives=3)
    train = small.data(tmp_path, start, rows, prompts=small.PLAIN)
    dev = small.data(tmp_path, start, small.pairs(40, 1, 3), "dev", prompts=small.PLAIN)
    recipe = RerankerRecipe(steps=40, batch=16, learning_rate=3e-3)
    done = train_reranker(start, train, small.job(tmp_path, dev), recipe)
    assert done.after["MRR"] >= done.before["MRR"]
    scores = [
        Reranker.load(done.model, engine=engine, precision="fp32").score("red cat", QUESTIONS)
        for engine in ("torch", "native")
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_a_student_with_some_layers(tmp_path, encoder):
    student = drop_layers(encoder, 1, tmp_path / "student")
    theirs = dict(load_trainable(encoder).named_parameters())
    for name, value in load_trainable(student).named_parameters():
        assert torch.equal(value, theirs[name.replace("layers.0", "layers.1")])
    with pytest.raises(InputError, match="layers is 2, expected 1 to 1"):
        drop_layers(encoder, 2, tmp_path / "more")


def test_distillation_follows_the_teacher(tmp_path, encoder):
    rows = small.pairs(120, negatives=3)
    draw = np.random.default_rng(0)
    for row in rows:
        row["scores"] = draw.random(4).tolist()
    train = small.data(tmp_path, encoder, rows)
    student = drop_layers(encoder, 1, tmp_path / "student")
    for by in ("kl", "margin_mse"):
        recipe = DistillationRecipe(steps=2, batch=16, by=by)
        done = distill(student, train, small.job(tmp_path / by), recipe)
        assert Encoder.load(done.model).card.layers == 1


def test_a_model_that_does_not_pool_is_given_a_pooling(tmp_path, encoder):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in encoder.folder.iterdir():
        if path.is_file() and path.name != "modules.json":
            (bare / path.name).write_bytes(path.read_bytes())
    assert read_pooled_encoder(bare, tmp_path / "read").plan.pooling == "mean"
    assert read_encoder(bare, tmp_path / "read", pooling="cls").plan.pooling == "cls"
    assert read_pooled_encoder(encoder.folder, tmp_path / "no").folder == encoder.folder


@pytest.mark.parametrize("architecture", ["new", "qwen2"])
def test_the_same_seed_and_texts_make_the_same_model(tmp_path, architecture):
    one, two = (small.model(tmp_path / n, architecture=architecture) for n in "ab")
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != small.model(tmp_path / "c", seed=1).fingerprint()


def test_a_model_is_not_written_over_another(tmp_path, encoder):
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        create_model(encoder.folder, small.texts())
    with pytest.raises(InputError, match="size is 'huge', expected tiny, mini, small, base"):
        create_model(tmp_path / "new", small.texts(), size="huge")


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "an earlier version"])
def test_an_interrupted_stage_leaves_no_model_and_goes_on(tmp_path, encoder, monkeypatch, earlier):
    from opengte.train import loop

    train = small.data(tmp_path, encoder, small.pairs(64))
    recipe = FineTuningRecipe(steps=6, batch=16, learning_rate=1e-3)
    whole = finetune(encoder, train, small.job(tmp_path / "whole"), recipe)
    steps = 0
    step = loop._Run._step

    def interrupted(run, batch, stop):
        nonlocal steps
        steps += 1
        return step(run, batch, steps == 3)

    monkeypatch.setattr(loop._Run, "_step", interrupted)
    done = finetune(encoder, train, small.job(tmp_path), recipe)
    assert (done.model, done.steps) == (None, 3)
    with pytest.raises(InputError, match="has a run of 3 steps"):
        finetune(encoder, train, small.job(tmp_path), recipe)
    for path in (tmp_path / "out").rglob(STATE) if earlier else ():
        state = path.read_text()
        assert encoder.fingerprint() in state
        path.write_text(state.replace(encoder.fingerprint(), encoder.former_fingerprint))
    again = finetune(encoder, train, small.job(tmp_path, resume=True), recipe)
    files = [folder / "model.safetensors" for folder in (whole.model, again.model)]
    assert files[0].read_bytes() == files[1].read_bytes()
