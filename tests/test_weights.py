"""Checkpoint files: strict, streamed, and equal to what the safetensors library reads."""

import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from opengte import weights
from opengte.arch.tensors import TensorSlice
from opengte.errors import WeightsError
from opengte.reference.load import as_tensor, read_pickle


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[TensorSlice, ...]]:
    return {n: (TensorSlice(n, tuple(t.shape), 0, t.shape[0]),) for n, t in tensors.items()}


def write(folder, tensors, name="model.safetensors"):
    save_file(tensors, folder / name)
    return folder


def tamper(path, change):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def load(folder, sources=None):
    opened = weights.open_weights(folder, {})
    rows = {}
    for chunk in weights.stream_chunks(opened, sources):
        rows.setdefault(chunk.slot, []).append(as_tensor(chunk.values.copy(), chunk.dtype))
    return {slot: torch.cat(parts) for slot, parts in rows.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_survive_in_small_chunks(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 100)
    tensors = {"a": torch.randn(37, 5).to(dtype), "b": torch.randn(3).to(dtype)}
    found = load(write(tmp_path, tensors), whole(tensors))
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)


def test_as_float32_widens_every_dtype(tmp_path):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.randn(4, 3).to(dtype)
        opened = weights.open_weights(write(tmp_path, {"a": tensor}), {})
        (chunk,) = weights.stream_chunks(opened, whole({"a": tensor}))
        assert np.array_equal(chunk.as_float32(), tensor.float().numpy())


def test_pieces_are_rows_in_slot_order(tmp_path):
    tensor = torch.arange(12.0).view(6, 2)
    pieces = (TensorSlice("a", (6, 2), 3, 6), TensorSlice("a", (6, 2), 0, 3))
    found = load(write(tmp_path, {"a": tensor}), {"slot": pieces})
    assert torch.equal(found["slot"], torch.cat((tensor[3:], tensor[:3])))


def test_sharded_equals_single(tmp_path):
    tensors = {"a": torch.randn(4, 2), "b": torch.randn(3)}
    for name, tensor in tensors.items():
        write(tmp_path, {name: tensor}, f"model-{name}.safetensors")
    index = {"weight_map": {name: f"model-{name}.safetensors" for name in tensors}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = load(tmp_path, whole(tensors))
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    index["weight_map"]["c"] = "model-a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="places tensor `c` in `model-a.safetensors`"):
        weights.open_weights(tmp_path, {})
    index["weight_map"] = {"a": "model-gone.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="lists the shard `model-gone.safetensors`"):
        weights.open_weights(tmp_path, {})
    index["weight_map"] = {"a": "../model-a.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="outside its folder"):
        weights.open_weights(tmp_path, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_value_that_is_not_finite_is_named(tmp_path, value, dtype, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 16)
    tensor = torch.zeros(9, 4, dtype=dtype)
    tensor[7, 2] = value
    with pytest.raises(WeightsError, match=r"tensor `a` of .* is not finite at \[7, 2\]"):
        load(write(tmp_path, {"a": tensor}), whole({"a": tensor}))


def test_shape_dtype_and_extra_tensors_are_named(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "q": torch.zeros(2, 3, dtype=torch.uint8)}
    opened = weights.open_weights(write(tmp_path, tensors), {})
    with pytest.raises(WeightsError, match=r"tensor `a` has shape \(2, 3\), expected \(3, 2\)"):
        weights.check_tensors(opened, {"s": (TensorSlice("a", (3, 2), 0, 3),)}, [])
    with pytest.raises(WeightsError, match="tensor `q` is stored as U8, expected F64, F32"):
        weights.check_tensors(opened, {"s": (TensorSlice("q", (2, 3), 0, 2),)}, [])
    with pytest.raises(WeightsError, match="1 tensors that its architecture does not: `q`"):
        weights.check_tensors(opened, {"s": (TensorSlice("a", (2, 3), 0, 2),)}, ["q"])
    weights.check_tensors(opened, {"s": (TensorSlice("a", (-1, 3), 1, 2),)}, [])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [3, 4]}, "has 32 bytes, expected 48"),
        ({"dtype": "F8_E4M3"}, "has dtype 'F8_E4M3', expected one of F64"),
        ({"data_offsets": [32, 64]}, "is truncated: it ends at byte"),
        ({"data_offsets": [-8, 24]}, "has 32 bytes, expected 32"),
        ({"data_offsets": "x"}, "no dtype, shape or offsets"),
        ({"shape": [-2, -4]}, "has shape"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, entry, message):
    write(tmp_path, {"a": torch.zeros(2, 4)})
    tamper(tmp_path / "model.safetensors", lambda header: header["a"].update(entry))
    with pytest.raises(WeightsError, match=message) as error:
        weights.open_weights(tmp_path, {})
    assert "`a`" in str(error.value)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 287), noise=st.binary(max_size=40))
def test_damaged_files_are_errors_never_crashes(tmp_path_factory, cut, noise):
    folder = write(tmp_path_factory.mktemp("w"), {"a": torch.zeros(8, 8)})
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut] + noise)
    with pytest.raises(WeightsError, match=r"model.safetensors"):
        list(
            weights.stream_chunks(weights.open_weights(folder, {}), whole({"a": torch.zeros(8, 8)}))
        )


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    with pytest.raises(WeightsError, match=r"has no weights: expected model\.safetensors"):
        weights.open_weights(tmp_path, {})


def test_pickles_are_read_as_data_only(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"a": torch.ones(2, 2, dtype=torch.bfloat16)}, tmp_path / "pytorch_model.bin")
    opened = weights.open_weights(tmp_path, {}, read_pickle)
    (chunk,) = weights.stream_chunks(opened, whole({"a": torch.ones(2, 2)}))
    assert chunk.dtype == "BF16" and chunk.as_float32().tolist() == [[1, 1], [1, 1]]
    torch.save({"a": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        weights.open_weights(tmp_path, {}, read_pickle)
    assert not (tmp_path / "executed").exists()


def fingerprint(folder) -> str:
    return weights.weights_fingerprint(weights.open_weights(folder, {}))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))


def test_the_fingerprint_is_that_of_the_files_wherever_they_are(tmp_path, own_cache):
    seen = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, {"a": torch.zeros(4, 4), "b": torch.ones(600, 600)})
        seen.add(fingerprint(tmp_path / name))
    assert len(seen) == 1


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 600 * 600 * 4 + 160 - 1), bit=st.integers(0, 7))
def test_one_bit_anywhere_is_another_fingerprint(tmp_path, own_cache, place, bit):
    path = tmp_path / "model.safetensors"
    if not path.exists():
        write(tmp_path, {"a": torch.zeros(5, 8), "b": torch.zeros(600, 600)})
    raw = bytearray(path.read_bytes())
    place += len(raw) - (600 * 600 * 4 + 160)
    first = fingerprint(tmp_path)
    raw[place] ^= 1 << bit
    path.write_bytes(raw)  # in place, of the same size
    second = fingerprint(tmp_path)
    raw[place] ^= 1 << bit
    path.write_bytes(raw)
    assert second != first == fingerprint(tmp_path)


def test_every_shard_of_pickles_is_in_the_fingerprint(tmp_path, own_cache):
    index = {"weight_map": {name: f"pytorch_model-{name}.bin" for name in "ab"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    seen = set()
    for changed in ("", "a", "b"):
        for name in "ab":
            torch.save(
                {name: torch.full((9, 9), float(name == changed))},
                tmp_path / f"pytorch_model-{name}.bin",
            )
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 3


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(tmp_path, own_cache):
    tensors = {"a": torch.zeros(4, 4)}
    opened = weights.open_weights(write(tmp_path, tensors), {})
    chunks = weights.stream_chunks(opened, whole(tensors))
    next(chunks)
    write(tmp_path, {"a": torch.ones(4, 4)}, "new")
    (tmp_path / "new").replace(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="was changed or replaced while it was read"):
        next(chunks)
    with pytest.raises(WeightsError, match="was changed or replaced while it was read"):
        weights.weights_fingerprint(opened)


def test_the_former_fingerprint_is_the_one_that_earlier_versions_published(tmp_path):
    tensors = {"a": torch.randn(4, 4), "b": torch.randn(600, 600)}
    opened = weights.open_weights(write(tmp_path, tensors), {})
    large = tensors["b"].numpy().tobytes()
    places = [(len(large) - 4096) * i // 3 for i in range(4)]
    expected = hashlib.sha256(b"a F32 (4, 4)\n" + tensors["a"].numpy().tobytes())
    expected.update(b"b F32 (600, 600)\n" + b"".join(large[p : p + 4096] for p in places))
    assert weights.sampled_fingerprint(opened) == expected.hexdigest()


def test_side_files_carry_their_name(tmp_path):
    (tmp_path / "2_Dense").mkdir()
    write(tmp_path, {"a": torch.zeros(1, 1)})
    write(tmp_path / "2_Dense", {"linear.weight": torch.zeros(1, 1)})
    side = {"2_Dense": tmp_path / "2_Dense" / "model.safetensors"}
    assert set(weights.open_weights(tmp_path, side).tensors) == {"a", "2_Dense:linear.weight"}
