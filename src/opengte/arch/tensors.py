"""Which checkpoint tensors fill the slots of a plan.

An architecture has a table from slot names (without `.weight` or `.bias`, with `{i}` for the layer)
to one or several alternatives. The first alternative whose tensors are all in the checkpoint is
used. An alternative is the name of one tensor with the same rows as the slot; a tuple with the name
of one tensor for each part of the slot; `SwappedParts`, one tensor whose two parts are in reverse
order; `TensorRows`, single rows of one tensor; `OneLess`, a tensor that stores one less than the
slot's values; or `FoldedRows`, rows of a table that a second tensor chooses and a third scales.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from opengte.arch.plan import Plan, Slot
from opengte.errors import WeightsError


@dataclass(frozen=True)
class SwappedParts:
    """One tensor that holds a slot's two parts in reverse order."""

    name: str


@dataclass(frozen=True)
class TensorRows:
    """Single rows of one tensor, one for each row of the slot."""

    name: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class OneLess:
    """One tensor that holds a slot's values minus one, as Gemma's norms do."""

    name: str


@dataclass(frozen=True)
class FoldedRows:
    """Row i is the row mapping[i] of a table, times weights[i]; without these tensors, row i.

    The table may have 8-bit integers.
    """

    table: str
    mapping: str
    weights: str


Alternative = str | tuple[str, ...] | SwappedParts | TensorRows | OneLess | FoldedRows
TensorTable = Mapping[str, tuple[Alternative, ...]]
Renamer = Callable[[str], str]


@dataclass(frozen=True)
class TensorSlice:
    """Rows [start, stop) of one checkpoint tensor, and the tensor's expected shape.

    An expected extent of -1 matches anything. The slot has the stored values plus `offset`. With
    fold, the rows are those that fold makes of the tensor.
    """

    tensor: str
    shape: tuple[int, ...]
    start: int
    stop: int
    offset: float = 0.0
    fold: FoldedRows | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Return the names of all tensors that are read."""
        more = (self.fold.mapping, self.fold.weights) if self.fold else ()
        return (self.tensor, *filter(None, more))


@dataclass(frozen=True)
class TensorNaming:
    """The names of an architecture's checkpoint tensors.

    Names in body have one of the prefixes in front of them, names in heads have none. unused are
    patterns of tensors that a checkpoint may have and no output needs.
    """

    body: TensorTable
    heads: TensorTable
    prefixes: tuple[str, ...]
    unused: tuple[str, ...]

    def is_unused(self, name: str) -> bool:
        """Return whether no output needs a tensor, whatever prefix its name has."""
        spare = re.compile("|".join(self.unused) or r"(?!)")
        return any(spare.fullmatch(name.removeprefix(prefix)) for prefix in ("", *self.prefixes))


def base_tensor(name: str, naming: TensorNaming, names: Collection[str]) -> str | None:
    """Return the tensor of a checkpoint that a name means which may have another prefix."""
    prefixes = ("", *naming.prefixes)
    stems = [name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)]
    found = [name, *(prefix + stem for stem in stems for prefix in prefixes)]
    for each in [*found, *map(_older_norm_name, found)]:
        if each in names:
            return each
    return None


def resolve_slots(
    plan: Plan, naming: TensorNaming, names: Collection[str]
) -> dict[str, tuple[TensorSlice, ...]]:
    """Return the tensor slices that fill each slot of a plan, given the checkpoint's tensor names.

    Raises WeightsError, listing the tensors it looked for, if a slot cannot be filled.
    """
    prefix = _prefix(naming, names)
    return {
        name: _slot_sources(name, slot, naming, prefix, names)
        for name, slot in plan.slots().items()
    }


def unexpected_tensors(
    used: Mapping[str, tuple[TensorSlice, ...]], naming: TensorNaming, names: Collection[str]
) -> list[str]:
    """Return the checkpoint tensors that no slot uses and the architecture does not ignore."""
    taken = {name for pieces in used.values() for piece in pieces for name in piece.tensors}
    prefix = _prefix(naming, names)
    spare = re.compile("|".join(naming.unused) or r"(?!)")
    return sorted(
        name
        for name in names
        if name not in taken and not spare.fullmatch(name.removeprefix(prefix))
    )


def expected_tensors(
    plan: Plan, naming: TensorNaming, prefix: str = "", choice: int = 0
) -> dict[str, tuple[TensorSlice, ...]]:
    """Return the tensor slices that a checkpoint has if every slot uses one of its alternatives."""
    result = {}
    for name, slot in plan.slots().items():
        options = list(_alternatives(name, naming, prefix, slot))
        result[name] = _pieces(options[min(choice, len(options) - 1)], slot)
    return result


def _prefix(naming: TensorNaming, names: Collection[str]) -> str:
    if len(naming.prefixes) == 1:
        return naming.prefixes[0]
    first = naming.body["embedding.word"][0]
    assert isinstance(first, str)
    return next((prefix for prefix in naming.prefixes if prefix + first in names), "")


def _slot_sources(
    name: str, slot: Slot, naming: TensorNaming, prefix: str, names: Collection[str]
) -> tuple[TensorSlice, ...]:
    looked_for = []
    alternatives = list(_alternatives(name, naming, prefix, slot))
    for alternative in [*alternatives, *map(_older_norm, alternatives)]:
        pieces = _pieces(alternative, slot)
        read = [name for piece in pieces for name in piece.tensors]
        missing = [name for name in read if name not in names]
        if not missing:
            return pieces
        if missing[0] not in looked_for:
            looked_for.append(missing[0])
    raise WeightsError(
        f"the checkpoint has no tensor for `{name}`: looked for `{'`, `'.join(looked_for)}` among "
        f"{len(names)} tensors. The files may be incomplete or of another architecture."
    )


def _alternatives(
    name: str, naming: TensorNaming, prefix: str, slot: Slot
) -> Iterator[Alternative]:
    stem, suffix = _split(name)
    layer = re.fullmatch(r"layers\.(\d+)\.(.*)", stem)
    index = layer[1] if layer else ""
    key = f"layers.{{i}}.{layer[2]}" if layer else stem
    for table, before in ((naming.body, prefix), (naming.heads, "")):
        for alternative in table.get(key, ()):
            if isinstance(alternative, tuple) and len(alternative) != len(slot.parts):
                continue  # of the gated or of the plain form of the same layer
            yield _rename(alternative, lambda n, b=before: b + _full(n, suffix, index))  # type: ignore[misc]


def _older_norm(alternative: Alternative) -> Alternative:
    """Return the names that the first BERT checkpoints, from TensorFlow, have for a LayerNorm."""
    return _rename(alternative, _older_norm_name)


def _older_norm_name(name: str) -> str:
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return re.sub(r"LayerNorm\.\w+$", lambda match: ends.get(match[0], match[0]), name)


def _split(slot: str) -> tuple[str, str]:
    for suffix in ("weight", "bias"):
        if slot.endswith("." + suffix):
            return slot.removesuffix("." + suffix), suffix
    return slot, ""


def _full(template: str, suffix: str, index: str) -> str:
    name = template.replace("{i}", index)
    if not suffix or name.endswith(("weight", "bias")):
        return name
    return name + suffix if name.endswith(":") else f"{name}.{suffix}"


def _rename(alternative: Alternative, rename: Renamer) -> Alternative:
    match alternative:
        case str():
            return rename(alternative)
        case tuple():
            return tuple(rename(name) for name in alternative)
        case SwappedParts():
            return SwappedParts(rename(alternative.name))
        case TensorRows():
            return TensorRows(rename(alternative.name), alternative.rows)
        case OneLess():
            return OneLess(rename(alternative.name))
        case FoldedRows():
            return alternative  # of static models, whose tensors have one name each


def _pieces(alternative: Alternative, slot: Slot) -> tuple[TensorSlice, ...]:
    rows, rest = slot.shape[0], slot.shape[1:]
    match alternative:
        case str():
            return (TensorSlice(alternative, slot.shape, 0, rows),)
        case tuple():
            return tuple(
                TensorSlice(name, (part, *rest), 0, part)
                for name, part in zip(alternative, slot.parts, strict=True)
            )
        case OneLess():
            return (TensorSlice(alternative.name, slot.shape, 0, rows, offset=1.0),)
        case SwappedParts():
            second = slot.parts[1]
            return (
                TensorSlice(alternative.name, slot.shape, second, rows),
                TensorSlice(alternative.name, slot.shape, 0, second),
            )
        case FoldedRows():
            shape = (-1 if alternative.mapping else rows, *rest)
            return (TensorSlice(alternative.table, shape, 0, rows, fold=alternative),)
        case TensorRows():
            return tuple(
                TensorSlice(alternative.name, (-1, *rest), row, row + 1) for row in alternative.rows
            )
