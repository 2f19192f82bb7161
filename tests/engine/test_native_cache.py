"""The file of prepared weights: written once, mapped afterwards, never trusted when damaged."""

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opengte import checkpoint
from opengte.engine import native, native_extension, native_weights
from opengte.errors import EngineError
from opengte.types import Output
from tests.support.installed import needs

if not native_extension.available():
    pytest.skip("the compiled CPU engine is not installed", allow_module_level=True)
needs("torch")
import torch

from tests.parity.families import FAMILIES
from tests.support import checkpoints
from tests.support.native_plans import batch

DENSE: frozenset[Output] = frozenset({"dense"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES["bert"](path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path))
    return tmp_path / "prepared"


def vectors(folder: Path, precision: str = "int8", **options: Any) -> Any:
    engine = native.load_native_engine(
        checkpoint.read_checkpoint(folder), precision=precision, threads=1, **options
    )
    return engine.run(batch((5, 9, 1)), DENSE).dense


@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_a_second_load_maps_the_file(
    folder: Path, cache: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = vectors(folder, precision=precision, cache=False)
    assert not cache.exists()
    np.testing.assert_array_equal(vectors(folder, precision=precision), plain)
    assert len(list(cache.iterdir())) == 1
    # the weights of the checkpoint are not read again
    monkeypatch.setattr(native_weights.PreparedWeights, "fill", None)
    np.testing.assert_array_equal(vectors(folder, precision=precision), plain)


@pytest.mark.parametrize("damage", ["cut", "header", "empty"])
def test_a_damaged_file_is_written_again(folder: Path, cache: Path, damage: str) -> None:
    plain = vectors(folder)
    (file,) = cache.iterdir()
    raw = file.read_bytes()
    broken = {"cut": raw[:-1], "header": b"x" + raw[1:], "empty": b""}[damage]
    file.unlink()
    file.write_bytes(broken)
    np.testing.assert_array_equal(vectors(folder), plain)
    assert file.read_bytes() == raw


def test_an_unwritable_cache_only_costs_time(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        found = vectors(folder)
    assert "cannot be kept" in caplog.text
    assert list(cache.iterdir()) == []
    np.testing.assert_array_equal(found, vectors(folder, cache=False))


def test_files_are_per_precision_and_level(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for level in native_extension.isa_levels():
        monkeypatch.setenv("OPENGTE_ISA", level)
        vectors(folder, precision="int8")
    vectors(folder, precision="fp32")
    assert len(list(cache.iterdir())) == len(native_extension.isa_levels()) + 1


def test_other_weights_of_the_same_shape_are_not_taken_for_these(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    """One word's vector, or a hole in the file: all that differs is far from both ends."""
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    vectors(model, "fp32")
    name, word = "embeddings.word_embeddings.weight", 200
    tensors = checkpoints.tensors_of(model)
    assert tensors[name].numel() > 4 * 4096
    checkpoints.add_tensors(model, **{name: tensors[name].index_fill(0, torch.tensor(word), 0.5)})
    changed = vectors(model, "fp32")
    np.testing.assert_array_equal(changed, vectors(model, "fp32", cache=False))
    assert len(list(cache.iterdir())) == 2


def test_the_maximum_length_is_no_part_of_the_file(folder: Path, cache: Path) -> None:
    for length in (8, 16):
        found = checkpoint.read_checkpoint(folder, max_length=length)
        native.load_native_engine(found, precision="fp32", threads=1)
        native.load_native_engine(found, threads=1)
    assert len([path for path in cache.iterdir() if path.suffix == ".json"]) == 1
    assert len([path for path in cache.iterdir() if "-fp32-" in path.name]) == 1


def test_only_the_cpu(folder: Path) -> None:
    with pytest.raises(EngineError, match="device is 'cuda'"):
        native.load_native_engine(checkpoint.read_checkpoint(folder), device="cuda")


@pytest.mark.parametrize("family", FAMILIES)
def test_families_agree_with_torch(family: str, tmp_path: Path) -> None:
    """Whole checkpoints, as published, on both engines."""
    from opengte.engine import torch as torch_engine

    FAMILIES[family](tmp_path / "model")
    found = checkpoint.read_checkpoint(tmp_path / "model")
    packed = batch((1, 2, 40, 17))
    packed = replace(packed, type_ids=np.zeros_like(packed.ids))
    wanted = (
        torch_engine.load_torch_engine(found, precision="fp32", device="cpu")
        .run(packed, DENSE)
        .dense
    )
    got = native.load_native_engine(found, precision="fp32", threads=2).run(packed, DENSE).dense
    assert got is not None and wanted is not None
    np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=0)
