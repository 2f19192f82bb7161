"""Which engine runs a checkpoint, and what is said when it is not the best one."""

import importlib.util
import warnings

import pytest

from opengte import checkpoint, engine
from opengte.errors import EngineError, FallbackWarning, MissingExtraError
from tests.parity.families import FAMILIES
from tests.support import checkpoints

needs_native = pytest.mark.skipif(
    not engine.native_extension.available(), reason="the compiled CPU engine is not installed"
)


@pytest.fixture
def tiny(tmp_path):
    FAMILIES["bert"](tmp_path)
    return tmp_path


def without(monkeypatch, *missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a)
    )


@needs_native
def test_the_compiled_engine_is_the_default_on_a_cpu(tiny, monkeypatch):
    without(monkeypatch, "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.load_engine(checkpoint.read_checkpoint(tiny), threads=1).name == "native"


@needs_native
def test_half_floats_are_a_matter_for_torch(tiny):
    assert engine.load_engine(checkpoint.read_checkpoint(tiny), precision="fp16").name == "torch"


def test_a_missing_extension_is_a_fallback_that_is_said(tiny, monkeypatch):
    monkeypatch.setattr(engine.native_extension, "available", lambda: False)
    with pytest.warns(FallbackWarning, match="runs on PyTorch instead .* not installed"):
        assert engine.load_engine(checkpoint.read_checkpoint(tiny), threads=1).name == "torch"
    without(monkeypatch, "torch")
    with pytest.raises(MissingExtraError, match=r"needs the package `torch`.*opengte\[torch\]"):
        with pytest.warns(FallbackWarning):
            engine.load_engine(checkpoint.read_checkpoint(tiny))


@needs_native
def test_pickles_are_a_fallback_that_is_said(tiny):
    checkpoints.to_pickle(tiny)
    with pytest.warns(FallbackWarning, match=r"its weights are pickles: pytorch_model\.bin"):
        assert engine.load_engine(checkpoint.read_checkpoint(tiny), threads=1).name == "torch"


@needs_native
def test_a_device_other_than_the_cpu_is_not_for_the_compiled_engine(tiny):
    with pytest.raises(
        EngineError, match="device is 'cuda', and the native engine runs on the CPU"
    ):
        engine.load_engine(checkpoint.read_checkpoint(tiny), engine="native", device="cuda")
