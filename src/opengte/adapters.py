"""LoRA adapters of PEFT, merged into the weights of their base model while these are read.

`adapter_config.json` has the settings. `adapter_model.safetensors` has thin matrices A and B for
each adapted matrix W, which becomes W + scale · B A (arXiv 2106.09685), and tensors that replace
those of the base. A chunk of rows is merged when it is read, so that no matrix is held twice; the
values are rounded to the dtype of the base, as `merge_and_unload` of PEFT does.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opengte.arch.tensors import TensorNaming, base_tensor
from opengte.checkpoint_files import read_json_config
from opengte.checkpoint_keys import NEUTRAL, check_keys, is_neutral
from opengte.errors import UnsupportedModelError, WeightsError
from opengte.hub.composed import origin
from opengte.hub.digests import FileState
from opengte.hub.file_selection import ADAPTER_WEIGHTS
from opengte.types import Floats
from opengte.weights import (
    NAMES,
    Array,
    OpenedFile,
    PickleReader,
    StoredTensor,
    TensorFile,
    Weights,
    as_dtype,
    as_floats,
    is_pickle,
    open_tensors,
)

CONFIG = "adapter_config.json"
REMEDY = (
    "Merge the adapter with its base (`merge_and_unload` of peft), save the result with "
    "`save_pretrained`, and load that."
)

_PREFIX = re.compile(r"base_model\.model\.")
_WRAPPED = re.compile(r"\.base_layer(?=\.)|\.modules_to_save\.default(?=\.)")
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias"
    r"|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
)
# a matrix that turns states into words; where no file has it, it is the table of word vectors
_TIED = re.compile(r"(.*\.)?(lm_head|decoder)\.weight")

# what makes matching slow: many repetitions, and repetitions of groups
_REPEATS = re.compile(r"[*+{]")
_NESTED = re.compile(r"\)[*+{]")

RowChange = Callable[[int, int, Floats], Floats]  # first row, row after the last one, their values


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's settings, and its file of tensors."""

    path: Path  # of adapter_config.json
    weights: Path
    settings: Mapping[str, Any]

    @property
    def classifies(self) -> bool:
        """Whether the adapter makes a sequence classifier, such as a reranker, of its base."""
        return self.settings.get("task_type") == "SEQ_CLS"

    def scale(self, module: str, rank: int) -> float:
        """Return what B A is multiplied with; WeightsError if the settings say another rank."""
        expected = self._of_module("rank_pattern", module, "r", 8)
        if rank != expected:
            raise WeightsError(
                f"`{self.weights}` has rank {rank} for `{module}`, but `r` and `rank_pattern` of "
                f"{self.path.name} say {expected:g}: the two files do not belong together"
            )
        alpha = self._of_module("alpha_pattern", module, "lora_alpha", 8)
        return alpha / (rank**0.5 if self.settings.get("use_rslora") is True else rank)

    def _of_module(self, table: str, module: str, otherwise: str, default: int) -> float:
        """Return a module's value: that of the first pattern in a table that its name ends with."""
        patterns = self.settings.get(table) or {}
        if not isinstance(patterns, dict):
            raise self.error(table, patterns, "an object of patterns and their numbers")
        for pattern, value in patterns.items():
            if _ends_with(pattern, module, self):
                return self._number(f"{table}` for `{pattern}", value)
        value = self.settings.get(otherwise)
        return self._number(otherwise, default if value is None else value)

    def _number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self.error(key, value, "a positive number")
        return float(value)

    def error(self, key: str, value: object, expected: str) -> UnsupportedModelError:
        """Return the error for a setting that is not merged."""
        return UnsupportedModelError(
            f"`{self.path}`: `{key}` is {str(value)[:80]!r}, expected {expected}. {REMEDY}"
        )


def _ends_with(pattern: str, module: str, adapter: Adapter) -> bool:
    if pattern == module or module.endswith(f".{pattern}"):
        return True
    if len(pattern) > 500 or len(_REPEATS.findall(pattern)) > 3 or _NESTED.search(pattern):
        raise adapter.error("pattern", pattern, "a name with at most three `*` and no `)*`")
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error as error:
        raise adapter.error("pattern", pattern, f"a regular expression ({error})") from None


def read_adapter(folder: Path) -> Adapter | None:
    """Return the adapter in a checkpoint folder, None if there is none.

    Raises UnsupportedModelError, naming file, key and value, for an adapter that is not LoRA or
    has a setting that is not merged, and WeightsError if its tensors are missing.
    """
    if not (folder / CONFIG).is_file():
        return None
    path = origin(folder / CONFIG)
    settings = read_json_config(path)
    found = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    found = origin(found) if found is not None else None
    adapter = Adapter(path, found or folder, settings)
    if settings.get("peft_type") != "LORA":
        raise adapter.error("peft_type", settings.get("peft_type"), "'LORA'")
    for key, neutral in NEUTRAL[CONFIG].items():
        if key in settings and not is_neutral(CONFIG, key, settings[key]):
            expected = " or ".join(repr(value) for value in neutral)
            raise adapter.error(key, settings[key], f"{expected}, as nothing else is merged here")
    if settings.get("bias", "none") not in ("none", "all", "lora_only"):
        raise adapter.error("bias", settings["bias"], "'none', 'all' or 'lora_only'")
    check_keys(path, settings)
    if found is None:
        raise WeightsError(
            f"`{path}` has no tensors beside it: expected {' or '.join(ADAPTER_WEIGHTS)}"
        )
    return adapter


def as_classifier(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of config.json that make a sequence classifier with one output of it."""
    return {**config, "architectures": ["BaseForSequenceClassification"], "num_labels": 1}


def merge(
    base: Weights, adapter: Adapter, naming: TensorNaming, read_pickle: PickleReader | None
) -> Weights:
    """Return the weights of a base model with an adapter merged into them.

    The adapter's files are among the result's, and so in its fingerprint. Where tensors are in a
    pickle and read_pickle is None, the result only lists the files. Raises WeightsError for a
    tensor that does not fit.
    """
    files = {
        "adapter:config": OpenedFile(adapter.path, FileState.of(adapter.path)),
        "adapter:weights": OpenedFile(adapter.weights, FileState.of(adapter.weights)),
    }
    base = replace(base, files={**base.files, **files})
    pickled = is_pickle(adapter.weights)
    if read_pickle is None and (pickled or base.pickles):
        listed = {"adapter:weights": adapter.weights} if pickled else {}
        return replace(base, pickles={**base.pickles, **listed})
    found = open_tensors(adapter.weights, read_pickle)
    return replace(base, tensors=_Merge(adapter, naming, base.tensors).merged(found))


@dataclass
class _Merge:
    """The merge of one adapter into the tensors of a base."""

    adapter: Adapter
    naming: TensorNaming
    base: Mapping[str, StoredTensor]

    def merged(self, found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        tensors = dict(self.base)
        modules: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in found.items():
            self._check(name, tensor)
            plain = _WRAPPED.sub("", _PREFIX.sub("", name, count=1))
            if part := _PART.fullmatch(plain):
                modules.setdefault(part["module"], {})[part["part"]] = tensor
            elif re.search(r"\.lora_|token_adapter|trainable_tokens", plain):
                raise self._not_merged(name)
            elif ".original_module." not in name:  # the base's own, which the copy replaces
                self._replace(tensors, plain, tensor)
        for module, parts in modules.items():
            self._add_low_rank(tensors, module, parts)
        return tensors

    def _check(self, name: str, tensor: StoredTensor) -> None:
        if tensor.dtype not in NAMES:
            raise WeightsError(
                f"tensor `{name}` of `{self.adapter.weights}` is stored as {tensor.dtype}, "
                f"expected {', '.join(NAMES.values())}"
            )

    def _not_merged(self, name: str) -> WeightsError:
        return WeightsError(
            f"tensor `{name}` of `{self.adapter.weights}` is not one that is merged: expected "
            f"lora_A, lora_B, lora_embedding_A, lora_embedding_B or lora_magnitude_vector of one "
            f"adapter, and whole tensors of the base. {REMEDY}"
        )

    def _replace(self, tensors: dict[str, StoredTensor], name: str, new: StoredTensor) -> None:
        found = base_tensor(name, self.naming, self.base)
        if found is None:
            tensors[name] = new  # a head that the base has not; what no model has is refused later
            return
        old = self.base[found]
        if new.shape != old.shape:
            raise WeightsError(
                f"tensor `{name}` of `{self.adapter.weights}` has shape {new.shape}, but "
                f"`{found}` of the base has {old.shape}. The adapter was trained on another base, "
                "or with other tokens."
            )
        values = lambda start, stop, _: _rows(new, start, stop)  # noqa: E731
        tensors[found] = _changed(old, self.adapter.weights, values)

    def _add_low_rank(
        self, tensors: dict[str, StoredTensor], module: str, parts: Mapping[str, StoredTensor]
    ) -> None:
        weight, bias = (
            base_tensor(f"{module}.{kind}", self.naming, self.base) for kind in ("weight", "bias")
        )
        if weight is None:
            if _TIED.fullmatch(f"{module}.weight") or not self.naming.is_unused(f"{module}.weight"):
                raise WeightsError(
                    f"`{self.adapter.weights}` changes `{module}`, which the base has no weight "
                    f"for: it was trained on another base, or on a tied one. {REMEDY}"
                )
            return  # of a head that no output needs
        low = _low_rank(self.adapter, module, parts, self.base[weight].shape)
        tensors[weight] = _changed(tensors[weight], self.adapter.weights, low.rows)
        if (added := parts.get("lora_B.bias")) is not None:
            if bias is None or added.shape != self.base[bias].shape:
                raise WeightsError(f"`{module}` of the base has no bias that `lora_B.bias` fits")
            moved = _rows(added, 0, added.shape[0]) * np.float32(low.scale)
            shift = lambda start, stop, values: values + moved[start:stop]  # noqa: E731
            tensors[bias] = _changed(tensors[bias], self.adapter.weights, shift)


@dataclass(frozen=True)
class _LowRank:
    """B (rows, r) and A (r, columns), and the length of each row after DoRA (arXiv 2402.09353)."""

    a: Floats
    b: Floats
    scale: float
    magnitude: Floats | None

    def rows(self, start: int, stop: int, values: Floats) -> Floats:
        """Return rows [start, stop) of the merged matrix."""
        merged: Floats = values + np.float32(self.scale) * (self.b[start:stop] @ self.a)
        if self.magnitude is not None:
            lengths = np.linalg.norm(merged, axis=1)
            merged = merged * (self.magnitude[start:stop] / lengths)[:, None]
        return merged


def _low_rank(
    adapter: Adapter, module: str, parts: Mapping[str, StoredTensor], shape: tuple[int, ...]
) -> _LowRank:
    table = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    names = (
        ("lora_embedding_A", "lora_embedding_B") if table else ("lora_A.weight", "lora_B.weight")
    )
    missing = [name for name in names if name not in parts]
    if missing:
        raise WeightsError(f"`{adapter.weights}` lacks `{module}.{missing[0]}`: it is incomplete")
    a, b = (_whole(parts[name]) for name in names)
    if table:  # (r, words) and (width, r), of which the product is transposed
        a, b = b.T, a.T
    magnitude = parts.get("lora_magnitude_vector")
    dora = adapter.settings.get("use_dora") is True
    if dora and table:
        raise adapter.error("use_dora", dora, f"false where word vectors (`{module}`) are adapted")
    if dora is (magnitude is None):
        raise adapter.error("use_dora", dora, f"{not dora}, as the tensors of `{module}` have it")
    fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
    if not fits or (b.shape[0], a.shape[1]) != shape:
        raise WeightsError(
            f"A and B of `{module}` in `{adapter.weights}` have shapes {a.shape} and {b.shape}, "
            f"expected (r, {shape[-1]}) and ({shape[0]}, r): it was trained on another base"
        )
    lengths = None if magnitude is None else _whole(magnitude).reshape(-1)
    if lengths is not None and lengths.shape != shape[:1]:
        raise WeightsError(f"`lora_magnitude_vector` of `{module}` has not {shape[0]} values")
    for values in (a, b, *([] if lengths is None else [lengths])):
        if not np.isfinite(values).all():
            raise WeightsError(f"`{adapter.weights}` has values for `{module}` that are not finite")
    return _LowRank(a, b, adapter.scale(module, a.shape[0]), lengths)


def _whole(tensor: StoredTensor) -> Floats:
    return _rows(tensor, 0, tensor.shape[0] if tensor.shape else 0)


def _rows(tensor: StoredTensor, start: int, stop: int) -> Floats:
    return as_floats(tensor.file.read(tensor, start, stop), tensor.dtype)


@dataclass(eq=False)
class _ChangedFile(TensorFile):
    """Stands for the file of one tensor of the base, whose rows are changed as they are read."""

    base: StoredTensor
    change: RowChange

    def read(self, tensor: StoredTensor, start: int, stop: int) -> Array:
        """Return changed rows, in the dtype of the base."""
        values = self.change(start, stop, _rows(self.base, start, stop))
        return as_dtype(values, self.base.dtype)

    def drop_pages(self, start: int, stop: int) -> None:
        """Let the kernel drop the pages of the base."""
        self.base.file.drop_pages(start, stop)


def _changed(base: StoredTensor, path: Path, change: RowChange) -> StoredTensor:
    file = _ChangedFile(path, base.file.mapping, base, change)
    return replace(base, file=file)
