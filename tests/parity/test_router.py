"""Models with an encoder for queries and one for documents, against sentence-transformers."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

from opengte import Encoder, KnowledgeBase
from opengte.checkpoint import read_checkpoint
from opengte.cli import main
from opengte.errors import CapabilityError, CheckpointError, InputError, UnsupportedModelError
from opengte.serve.inference.loading import load_model
from tests.parity.test_sentence_modules import ENGINES, TEXTS, WIDTH, network
from tests.parity.test_static import static_module
from tests.support import checkpoints
from tests.support.inference import MODEL


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SentenceTransformer]:
    folder = tmp_path_factory.mktemp("router")
    document = [network(folder / "network"), Pooling(WIDTH, "mean"), Dense(WIDTH, WIDTH)]
    query: list[Any] = [static_module(WIDTH)]
    assert isinstance(query[0], StaticEmbedding)
    router = Router.for_query_document(query_modules=query, document_modules=document)
    prompts = {"query": "the ", "document": "a "}
    model = SentenceTransformer(modules=[router, Normalize()], device="cpu", prompts=prompts)
    model.save(str(folder / "model"))
    return folder / "model", model


@pytest.fixture
def folder(saved: tuple[Path, SentenceTransformer], tmp_path: Path) -> Path:
    """A copy of the model, to change."""
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


@pytest.mark.filterwarnings("ignore:Different max_seq_lengths")
@pytest.mark.parametrize("engine", ENGINES)
def test_each_role_has_its_encoder(saved: tuple[Path, SentenceTransformer], engine: str) -> None:
    folder, model = saved
    encoder = Encoder.load(folder, engine=engine, precision="fp32")
    wanted = model.encode_query(TEXTS), model.encode_document(TEXTS)
    np.testing.assert_allclose(encoder.encode_query(TEXTS), wanted[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_document(TEXTS), wanted[1], rtol=0, atol=1e-5)
    # the files name documents as the default
    np.testing.assert_allclose(encoder.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=1e-5)
    streamed = next(encoder.stream(TEXTS, role="query")).dense
    np.testing.assert_array_equal(streamed, encoder.encode_query(TEXTS))


def test_a_text_without_a_route_is_an_error(folder: Path) -> None:
    change(folder, parameters={"default_route": None})
    encoder = Encoder.load(folder)
    for call in (encoder.encode, encoder.embed, lambda texts: next(encoder.stream(texts))):
        with pytest.raises(CapabilityError, match="a text needs a role. Use encode_query or"):
            call(["a cat"])
    assert encoder.encode_query("a cat").shape == (WIDTH,)


def change(folder: Path, **changes: Any) -> None:
    path = folder / "router_config.json"
    checkpoints.write_json(path, checkpoints.read_json(path) | changes)


def test_the_card_has_both_fingerprints(saved: tuple[Path, SentenceTransformer]) -> None:
    card = read_checkpoint(saved[0]).card
    query = read_checkpoint(saved[0], route="query").card
    assert query.architecture == "static" and card.architecture == "bert"
    assert card.query_fingerprint == query.fingerprint != card.fingerprint
    assert read_checkpoint("minilm").card.query_fingerprint is None
    shown = CliRunner().invoke(main, ["info", str(saved[0])]).output
    assert query.fingerprint in shown and card.fingerprint in shown


def test_a_copy_by_pickle(saved: tuple[Path, SentenceTransformer]) -> None:
    encoder = Encoder.load(saved[0], precision="fp32", max_length=40)
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode_query(TEXTS), encoder.encode_query(TEXTS))
    assert again.card == encoder.card


def test_an_index_knows_both(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "kb"
    KnowledgeBase.create(place, Encoder.load(folder)).add(["the cat sat", "a dog"], ["1", "2"])
    assert KnowledgeBase.open(place).search("cat").hits
    tensors = checkpoints.tensors_of(folder / "query_0_StaticEmbedding")
    tensors["embedding.weight"] = tensors["embedding.weight"] * 2
    checkpoints.unshard(folder / "query_0_StaticEmbedding", tensors)
    with pytest.raises(InputError, match="query fingerprint"):
        KnowledgeBase.open(place).search("cat")


def test_faults_are_named(folder: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="a served model is one encoder"):
        load_model(MODEL.__class__(str(folder)))
    tensors = {
        "embedding.weight": checkpoints.tensors_of(folder / "query_0_StaticEmbedding")[
            "embedding.weight"
        ][:, :8]
    }
    checkpoints.unshard(folder / "query_0_StaticEmbedding", tensors)
    with pytest.raises(CheckpointError, match=f"queries of 8 dimensions and documents of {WIDTH}"):
        Encoder.load(folder)
    change(folder, structure={"text": ["document_0_Transformer"]})
    with pytest.raises(UnsupportedModelError, match="has the routes text and"):
        Encoder.load(folder)
    change(folder, structure={"query": ["gone"], "document": []})
    with pytest.raises(CheckpointError, match="is not the file of a Router"):
        Encoder.load(folder)
