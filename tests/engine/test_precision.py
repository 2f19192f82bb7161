"""The precision that `auto` means: the fastest that is faithful, measured once."""

import json
import re

import numpy as np
import pytest

from opengte import checkpoint
from opengte.engine import native, native_extension, precision
from opengte.engine.base import EngineResult
from tests.parity.families import FAMILIES

CANDIDATES = ("fp32", "bf16", "int8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    FAMILIES["bert"](folder)
    return checkpoint.read_checkpoint(folder)


class Fake:
    """An engine whose vectors are off by an angle and whose clock is told."""

    def __init__(self, clock, angle, seconds):
        self.clock, self.angle, self.seconds = clock, angle, seconds

    def run(self, batch, outputs):
        assert outputs == {"states"}
        self.clock.append(self.clock[-1] + self.seconds)
        states = np.tile(np.array([[np.cos(self.angle), np.sin(self.angle)]], np.float32), (1, 1))
        return EngineResult(states=np.repeat(states, len(batch.ids), axis=0))


def choose(tiny, monkeypatch, trials, remembered=None):
    clock, built = [0.0], []
    monkeypatch.setattr(precision.time, "process_time", lambda: clock[-1])

    def build(plan, chunks, name):
        built.append(name)
        angle, seconds = trials[name]
        return Fake(clock, angle, seconds)

    return precision.choose_precision(tiny, CANDIDATES, build, remembered), built


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ({"fp32": (0, 3), "bf16": (0.01, 2), "int8": (0.02, 1)}, "int8"),
        ({"fp32": (0, 3), "bf16": (0.01, 2), "int8": (0.2, 1)}, "bf16"),
        ({"fp32": (0, 1), "bf16": (0.01, 2), "int8": (0.02, 3)}, "fp32"),
        ({"fp32": (0, 3), "bf16": (0.2, 2), "int8": (0.3, 1)}, "fp32"),
    ],
)
def test_the_fastest_faithful_precision_wins(tiny, monkeypatch, trials, chosen):
    assert choose(tiny, monkeypatch, trials)[0] == chosen


def test_the_choice_is_remembered_and_a_damaged_record_is_made_again(tiny, monkeypatch, tmp_path):
    trials = {"fp32": (0, 3), "bf16": (0.01, 2), "int8": (0.02, 1)}
    record = tmp_path / "cache" / "choice.json"
    assert choose(tiny, monkeypatch, trials, record) == ("int8", list(CANDIDATES))
    assert [t["precision"] for t in json.loads(record.read_text())["trials"]] == list(CANDIDATES)
    assert choose(tiny, monkeypatch, trials, record) == ("int8", [])
    for damage in ("", "[]", '{"precision": "int2"}'):
        record.write_text(damage)
        assert choose(tiny, monkeypatch, trials, record)[1] == list(CANDIDATES)


def test_a_cache_that_cannot_be_written_is_no_failure(tiny, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    trials = {"fp32": (0, 3), "bf16": (0.01, 2), "int8": (0.02, 1)}
    assert choose(tiny, monkeypatch, trials, tmp_path / "file" / "x.json")[0] == "int8"
    assert re.search("cannot be kept in", caplog.text)


def test_a_large_model_is_judged_by_its_first_layers(tiny):
    plan = tiny.plan
    cut = precision.first_layers_within(plan, 4 * precision.layer_parameters(plan, 1))
    assert len(cut.layers) == 1 and set(cut.slots()) < set(plan.slots())
    assert precision.first_layers_within(plan, 1 << 40) == plan
    chunks = list(tiny.chunks(slots=cut.slots()))
    assert {chunk.slot for chunk in chunks} == set(cut.slots())


@pytest.mark.parametrize("family", ["bert", "new", "qwen2", "nvembed"])
@pytest.mark.skipif(
    not native_extension.available(), reason="the compiled CPU engine is not installed"
)
def test_auto_runs_on_real_engines(family, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    FAMILIES[family](tmp_path / "model")
    engine = native.load_native_engine(checkpoint.read_checkpoint(tmp_path / "model"), threads=1)
    assert engine.precision in CANDIDATES
    (record,) = (tmp_path / "cache" / "prepared").glob("*.precision.json")
    assert json.loads(record.read_text())["precision"] == engine.precision
