"""Checkpoint files as tensors, and tensors into a plan's slots: strict, memory-mapped, streamed.

The only module that opens weight files. A safetensors file is a length, a JSON header and raw data;
it is mapped, never copied whole. What does not match is an error that names the tensor.
"""

import hashlib
import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte.arch.tensors import TensorSlice
from opengte.checkpoint_files import LFS_POINTER
from opengte.errors import WeightsError
from opengte.hub.digests import FileState, file_digests

Array = npt.NDArray[Any]

# bfloat16 travels as uint16: NumPy has no such type
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
NAMES = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}

MAX_HEADER = 100 << 20  # bytes, the bound of the format's own implementation
CHUNK = 16 << 20  # the largest chunk of rows in bytes, so that a load never holds a tensor twice
SAMPLES = 4  # how many blocks of a large tensor `sampled_fingerprint` reads
BLOCK = 4096  # bytes of such a block


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its dtype tag, its shape and its bytes [start, stop) of the file."""

    file: "TensorFile"
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class WeightChunk:
    """Consecutive rows of a slot: values (rows, ...) in the stored dtype, bf16 as uint16."""

    slot: str
    row: int
    values: Array
    dtype: str

    def as_float32(self) -> npt.NDArray[np.float32]:
        """Return the values as float32."""
        return as_floats(self.values, self.dtype)


def as_floats(values: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Return stored values as float32."""
    if dtype == "BF16":
        wide = values.astype(np.uint32) << 16
        return wide.view(np.float32)
    return values.astype(np.float32)


def as_dtype(values: npt.NDArray[np.float32], dtype: str) -> Array:
    """Return float32 values as they are stored in a dtype, rounded to the nearest value."""
    if dtype != "BF16":
        return values.astype(DTYPES[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isfinite(values), rounded, 0x7FC0).astype(np.uint16)


@dataclass(eq=False)
class TensorFile:
    """One memory-mapped file."""

    path: Path
    mapping: mmap.mmap | memoryview

    def read(self, tensor: StoredTensor, start: int, stop: int) -> Array:
        """Return rows [start, stop) of a tensor as a view of the mapped file."""
        rest = tensor.shape[1:]
        dtype = DTYPES[tensor.dtype]
        row = int(np.prod(rest, dtype=np.int64))
        offset = tensor.start + start * row * dtype.itemsize
        flat = np.frombuffer(self.mapping, dtype, count=(stop - start) * row, offset=offset)
        return (flat if flat.flags.aligned else flat.copy()).reshape(stop - start, *rest)

    @contextmanager
    def random_access(self) -> Iterator[None]:
        """Turn off read-ahead while small blocks are read."""
        if not isinstance(self.mapping, mmap.mmap) or not hasattr(mmap, "MADV_RANDOM"):
            yield
            return
        self.mapping.madvise(mmap.MADV_RANDOM)
        yield
        self.mapping.madvise(mmap.MADV_NORMAL)

    def drop_pages(self, start: int, stop: int) -> None:
        """Let the kernel drop the resident pages of bytes [start, stop)."""
        if not isinstance(self.mapping, mmap.mmap) or not hasattr(self.mapping, "madvise"):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self.mapping.madvise(mmap.MADV_DONTNEED, first, length)


@dataclass(frozen=True)
class OpenedFile:
    """A weight file, and its state when it was opened."""

    path: Path
    state: FileState

    def require(self, state: FileState) -> None:
        """Raise WeightsError unless this is the file that was opened."""
        if not state.same_contents(self.state):
            raise WeightsError(
                f"`{self.path}` was changed or replaced while it was read: load the model again"
            )


@dataclass(frozen=True, eq=False)
class Weights:
    """All tensors of a checkpoint by name; a side file's tensors are named `file:name`."""

    tensors: Mapping[str, StoredTensor]
    files: Mapping[str, OpenedFile] = field(default_factory=dict)  # by number, or prefix
    pickles: Mapping[str, Path] = field(default_factory=dict)  # of the files; without tensors

    @property
    def parameters(self) -> int:
        """Return the number of floating-point values in the files."""
        return sum(
            int(np.prod(tensor.shape, dtype=np.int64))
            for tensor in self.tensors.values()
            if tensor.dtype in NAMES
        )

    @property
    def dtype(self) -> str:
        """Return the dtype that most bytes are stored in: fp32, bf16, fp16 or fp64."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.stop - tensor.start
        stored = max(sizes, key=lambda dtype: sizes[dtype]) if sizes else "F32"
        return NAMES.get(stored, stored.lower())


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map one safetensors file and return its tensors.

    Raises WeightsError, naming the file and the tensor, if header and data disagree.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise WeightsError(
                f"`{path}` is no safetensors file or is cut off: {size} bytes, header of {length}"
            )
        header = _parse_header(path, handle.read(length))
        data = 8 + length
        # copy-on-write: nothing writes, but some consumers require writable arrays
        mapping = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    file = TensorFile(path, mapping)
    return {
        name: _tensor(file, name, entry, data, size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise WeightsError(f"the header of `{path}` is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WeightsError(f"the header of `{path}` is not an object")
    return header


def _tensor(file: TensorFile, name: str, entry: Any, data: int, size: int) -> StoredTensor:
    where = f"tensor `{name}` of `{file.path}`"
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        start, stop = (data + int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{where} has no dtype, shape or offsets: {entry!r:.200}") from None
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise WeightsError(f"{where} has dtype {dtype!r:.50}, expected one of {known}")
    if not all(isinstance(extent, int) and 0 <= extent < 2**40 for extent in shape):
        raise WeightsError(f"{where} has shape {shape!r:.200}, expected whole numbers")
    needed = DTYPES[dtype].itemsize
    for extent in shape:
        needed *= extent
    if stop - start != needed or start < data:
        raise WeightsError(f"{where} has {stop - start} bytes, expected {needed} for shape {shape}")
    if stop > size:
        raise WeightsError(f"{where} is truncated: it ends at byte {stop} of {size} in the file")
    return StoredTensor(file, dtype, shape, start, stop)


PickleReader = Callable[[Path], Mapping[str, tuple[Array, str]]]


def open_weights(
    folder: Path, sides: Mapping[str, Path], read_pickle: PickleReader | None = None
) -> Weights:
    """Open the weights of a checkpoint folder, and its side files by their prefix.

    Reads `model.safetensors` or the shards in `model.safetensors.index.json`. Without these, it
    reads `pytorch_model.bin`, whole or sharded, with read_pickle. Without read_pickle, the result
    lists the pickles but not their tensors.
    """
    tensors: dict[str, StoredTensor] = {}
    pickles: dict[str, Path] = {}
    paths = {f"{i}|": path for i, path in enumerate(weight_files(folder))}
    paths |= {f"{name}:": path for name, path in sides.items()}
    files = {label: OpenedFile(path, FileState.of(path)) for label, path in paths.items()}
    for path in paths.values():
        _refuse_pointer(path)
    for label, path in paths.items():
        if is_pickle(path) and read_pickle is None:
            pickles[label] = path
        else:
            _merge(tensors, open_tensors(path, read_pickle), label.rpartition("|")[2], path)
    _check_index(folder, tensors)
    return Weights(tensors, files, pickles)


def is_pickle(path: Path) -> bool:
    """Return whether a weight file is a pickle, which only PyTorch reads."""
    return path.suffix != ".safetensors"


def open_tensors(path: Path, read_pickle: PickleReader | None) -> dict[str, StoredTensor]:
    """Return the tensors of one file: of a safetensors file mapped, of a pickle with its reader."""
    _refuse_pointer(path)
    if not is_pickle(path):
        return open_safetensors(path)
    assert read_pickle is not None
    return _from_arrays(path, read_pickle(path))


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise WeightsError(
                f"`{path}` is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`."
            )


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the model's weights.

    Raises WeightsError if there are none, or if an index names a file that does not exist.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single = folder / f"{stem}.{suffix}"
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return _shards(index)
        if single.is_file():
            return [single]
    raise WeightsError(
        f"`{folder}` has no weights: expected model.safetensors, model.safetensors.index.json with "
        "its shards, or pytorch_model.bin"
    )


def _index_map(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise TypeError("weight_map is not an object of file names")
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"`{index}` cannot be read: {error}") from None
    return names


def _shards(index: Path) -> list[Path]:
    names = sorted(set(_index_map(index).values()))
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"`{index}` names a file outside its folder: {name!r}")
        if not (index.parent / name).is_file():
            raise WeightsError(f"`{index}` lists the shard `{name}`, which is not in the folder")
    return [index.parent / name for name in names]


def _check_index(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    for name, file in _index_map(index).items():
        if name not in tensors or tensors[name].file.path.name != file:
            raise WeightsError(f"`{index}` places tensor `{name}` in `{file}`, which lacks it")


def _merge(
    into: dict[str, StoredTensor], found: Mapping[str, StoredTensor], prefix: str, path: Path
) -> None:
    for name, tensor in found.items():
        if prefix + name in into:
            raise WeightsError(f"tensor `{name}` of `{path}` is also in another shard")
        into[prefix + name] = tensor


def _from_arrays(path: Path, arrays: Mapping[str, tuple[Array, str]]) -> dict[str, StoredTensor]:
    result = {}
    for name, (values, dtype) in arrays.items():
        buffer = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        file = TensorFile(path, buffer)
        result[name] = StoredTensor(file, dtype, tuple(values.shape), 0, len(buffer))
    return result


def check_tensors(
    weights: Weights, sources: Mapping[str, Iterable[TensorSlice]], unexpected: Iterable[str]
) -> None:
    """Raise WeightsError unless every tensor has its shape and the files have no other tensor."""
    for slot, pieces in sources.items():
        for piece in pieces:
            found = weights.tensors[piece.tensor]
            same = len(found.shape) == len(piece.shape) and all(
                want in (-1, have) for want, have in zip(piece.shape, found.shape, strict=True)
            )
            rows = piece.stop if piece.fold else found.shape[0]
            if not same or not piece.start < piece.stop <= rows:
                raise WeightsError(
                    f"tensor `{piece.tensor}` has shape {found.shape}, expected {piece.shape} "
                    f"for `{slot}`. config.json and the weights do not belong together."
                )
            if piece.fold is not None:
                _check_folded(weights, piece)
            elif found.dtype not in NAMES:
                raise WeightsError(
                    f"tensor `{piece.tensor}` is stored as {found.dtype}, expected "
                    f"{', '.join(NAMES)}. Quantised checkpoints are not read; use the original."
                )
    extra = list(unexpected)
    if extra:
        raise WeightsError(
            f"the checkpoint has {len(extra)} tensors that its architecture does not: "
            f"`{'`, `'.join(extra[:5])}`{' …' if len(extra) > 5 else ''}"
        )


def _check_folded(weights: Weights, piece: TensorSlice) -> None:
    """Raise WeightsError unless the tensors that choose and scale rows fit the table."""
    fold, rows = piece.fold, piece.stop
    assert fold is not None
    table = weights.tensors[fold.table]
    for name, dtypes in ((fold.table, (*NAMES, "I8")), (fold.weights, tuple(NAMES))):
        if name and weights.tensors[name].dtype not in dtypes:
            raise WeightsError(
                f"tensor `{name}` is stored as {weights.tensors[name].dtype}, expected "
                f"{', '.join(dtypes)}"
            )
    for name in filter(None, (fold.mapping, fold.weights)):
        if weights.tensors[name].shape != (rows,):
            raise WeightsError(
                f"tensor `{name}` has shape {weights.tensors[name].shape}, expected ({rows},), one "
                "value for each token"
            )
    if fold.mapping:
        chosen = _whole(weights.tensors[fold.mapping])
        if chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= table.shape[0]:
            raise WeightsError(
                f"tensor `{fold.mapping}` has values that are no rows of `{fold.table}`: expected "
                f"whole numbers from 0 to {table.shape[0] - 1}"
            )


def _whole(tensor: StoredTensor) -> Array:
    return tensor.file.read(tensor, 0, tensor.shape[0])


def _folded_chunks(weights: Weights, slot: str, piece: TensorSlice) -> Iterator[WeightChunk]:
    """Yield the rows that FoldedRows makes of a table, as float32."""
    fold = piece.fold
    assert fold is not None
    table = weights.tensors[fold.table]
    values = _whole(table)
    chosen = _whole(weights.tensors[fold.mapping]) if fold.mapping else None
    scales = None
    if fold.weights:
        stored = weights.tensors[fold.weights]
        scales = as_floats(_whole(stored), stored.dtype)
    step = max(1, CHUNK // (4 * table.shape[1]))
    for start in range(0, piece.stop, step):
        stop = min(start + step, piece.stop)
        taken = values[start:stop] if chosen is None else values[chosen[start:stop]]
        if table.dtype in NAMES:
            _check_finite(taken, table, fold.table, start)
        rows = as_floats(taken, table.dtype)
        if scales is not None:
            rows = rows * scales[start:stop, None]
        yield WeightChunk(slot, start, rows, "F32")


def stream_chunks(
    weights: Weights, sources: Mapping[str, Iterable[TensorSlice]]
) -> Iterator[WeightChunk]:
    """Yield every slot's values in chunks of rows, in slot order, and drop the pages behind them.

    A chunk is a view of the mapped file: copy it before taking the next one. Raises WeightsError,
    naming the tensor, for a value that is not finite, and if a file changed meanwhile.
    """
    for slot, pieces in sources.items():
        row = 0
        for piece in pieces:
            if piece.fold is not None:
                yield from _folded_chunks(weights, slot, piece)
                continue
            tensor = weights.tensors[piece.tensor]
            width = (tensor.stop - tensor.start) // max(1, tensor.shape[0])
            step = max(1, CHUNK // max(1, width))
            for start in range(piece.start, piece.stop, step):
                stop = min(start + step, piece.stop)
                values = tensor.file.read(tensor, start, stop)
                _check_finite(values, tensor, piece.tensor, start)
                chunk = WeightChunk(slot, row, values, tensor.dtype)
                if piece.offset:
                    chunk = WeightChunk(slot, row, chunk.as_float32() + piece.offset, "F32")
                yield chunk
                row += stop - start
                tensor.file.drop_pages(tensor.start + start * width, tensor.start + stop * width)
    for file in weights.files.values():
        file.require(FileState.of(file.path))


def _check_finite(values: Array, tensor: StoredTensor, name: str, row: int) -> None:
    if tensor.dtype == "BF16":
        finite = (values & np.uint16(0x7F80)) != 0x7F80
    else:
        finite = np.isfinite(values)
    if not finite.all():
        where = np.unravel_index(int(np.argmin(finite)), values.shape)
        place = (int(where[0]) + row, *map(int, where[1:]))
        raise WeightsError(
            f"tensor `{name}` of `{tensor.file.path}` is not finite at {list(place)}: "
            "the file is damaged, or the training that wrote it diverged"
        )


def weights_fingerprint(weights: Weights) -> str:
    """Return a hash of every byte of the weight files, whatever their folder and times.

    A file is read once; its digest is remembered until it changes. Raises WeightsError if a file
    changed since it was opened.
    """
    labels = sorted(weights.files)
    digests = file_digests([weights.files[label].path for label in labels])
    found = hashlib.sha256()
    for label, digest in zip(labels, digests, strict=True):
        weights.files[label].require(digest.state)
        found.update(f"{label} {digest.sha256}\n".encode())
    return found.hexdigest()


def sampled_fingerprint(weights: Weights) -> str:
    """Return the hash that earlier versions gave these weights: of samples of large tensors.

    Only to recognise what they wrote. It does not tell all models apart.
    """
    digest = hashlib.sha256()
    for name in sorted(weights.tensors):
        tensor = weights.tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.file.random_access():
            for start, stop in _sampled(tensor.start, tensor.stop):
                digest.update(tensor.file.mapping[start:stop])
    pickles = {label.rpartition("|")[2]: path for label, path in weights.pickles.items()}
    for label, path in sorted(pickles.items()):
        digest.update(f"{label} {path.stat().st_size}\n".encode())
        with path.open("rb") as handle:
            for start, stop in _sampled(0, path.stat().st_size):
                handle.seek(start)
                digest.update(handle.read(stop - start))
    return digest.hexdigest()


def _sampled(start: int, stop: int) -> Iterator[tuple[int, int]]:
    if stop - start <= SAMPLES * BLOCK:
        yield start, stop
        return
    for i in range(SAMPLES):
        first = start + (stop - start - BLOCK) * i // (SAMPLES - 1)
        yield first, first + BLOCK
