"""The model of an index: refused if it is another, adopted if only the fingerprint is old."""

from dataclasses import replace

import pytest

from opengte.errors import InputError
from opengte.search.kb import KnowledgeBase
from opengte.search.maintenance.migrate import Migration
from opengte.search.model_identity import ModelIdentity, adopt_settings
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb")


def updated(former="fake", now="new"):
    """The encoder of words as a later version knows it: with a fingerprint of another kind."""
    encoder = helpers.encoder()
    encoder.card = replace(encoder.card, fingerprint=now)
    encoder.former_fingerprint = former
    return encoder


@pytest.fixture
def old(tmp_path):
    (tmp_path / "a.txt").write_text("A red cat eats grass.")
    base = helpers.kb(tmp_path)
    base.index([tmp_path / "a.txt"])
    return tmp_path / "kb"


def test_an_index_made_before_is_adopted_without_embedding_again(old, monkeypatch):
    encoder = updated()
    monkeypatch.setattr(encoder, "embed", None)
    base = KnowledgeBase.open(old, encoder)
    assert base.identity.fingerprint == base.settings["model"]["fingerprint"] == "new"
    monkeypatch.undo()
    assert base.search("a red cat").hits
    del encoder.former_fingerprint  # from now on, nothing is computed
    assert KnowledgeBase.open(old, encoder).identity.fingerprint == "new"
    report = KnowledgeBase.open(old, encoder).index([old.parent / "a.txt"])
    assert report.unchanged == 1 and not report.embedded


def test_another_model_is_not_adopted(old):
    with pytest.raises(InputError, match="fingerprint 'new', the index has 'fake'"):
        KnowledgeBase.open(old, updated(former="other"))
    with pytest.raises(InputError, match="max length 12, the index has 16"):
        encoder = updated()
        encoder.card = replace(encoder.card, max_length=12)
        KnowledgeBase.open(old, encoder)
    assert KnowledgeBase.open(old).identity.fingerprint == "fake"


def test_an_index_that_cannot_be_written_is_used_all_the_same(old, monkeypatch, caplog):
    base = KnowledgeBase.open(old, load=lambda identity: updated())

    def refuse(settings):
        raise OSError("read-only file system")

    monkeypatch.setattr(base.latest().store, "save_settings", refuse)
    assert base.search("a red cat").hits
    assert "cannot be kept" in caplog.text and base.identity.fingerprint == "new"


def test_a_switch_to_the_same_model_is_still_refused(old):
    index = KnowledgeBase.open(old).latest()
    with pytest.raises(InputError, match="already"):
        Migration.to(index, updated())


def test_the_calibration_of_an_adopted_index_holds():
    model = ModelIdentity.of(helpers.encoder().card, None).settings()
    settings = {"model": model, "calibration": {"identity": {"model": model, "passages": "auto"}}}
    adopted = adopt_settings(settings, updated())
    assert adopted["model"] == adopted["calibration"]["identity"]["model"]
    assert adopted["model"] == {**model, "fingerprint": "new"}
    assert settings["model"]["fingerprint"] == "fake"
