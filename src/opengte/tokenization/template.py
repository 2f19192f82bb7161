"""Where a tokenizer puts its special tokens: probed once at load, applied by the caller."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opengte.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

Segment = tuple[tuple[int, int], ...]  # (id, token type) of consecutive special tokens


@dataclass(frozen=True)
class Template:
    """A sequence of k texts: specials[0] text 0 specials[1] ... text k-1 specials[k].

    types holds the token type of each text. A tokenizer's fingerprint hashes the repr, so that the
    names here must not change.
    """

    specials: tuple[Segment, ...]
    types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of special tokens."""
        return sum(len(segment) for segment in self.specials)

    @property
    def ids(self) -> frozenset[int]:
        """Return the ids of the special tokens."""
        return frozenset(token for segment in self.specials for token, _ in segment)


def probe_templates(backend: "Backend") -> tuple[Template, Template]:
    """Return the templates that the post-processor applies to one text and to a pair."""
    text = _probe_text(backend)
    single = _read(backend.encode(text, add_special_tokens=True), texts=1)
    pair = _read(backend.encode(text, text, add_special_tokens=True), texts=2)
    return single, pair


def with_edge_token(
    single: Template, pair: Template, token: int, *, before: bool
) -> tuple[Template, Template]:
    """Add a token before (or after) every text of both templates, unless single has it there."""
    edge = single.specials[0 if before else -1]
    if token in (found for found, _ in edge):
        return single, pair
    return _add(single, token, before=before), _add(pair, token, before=before)


def without_token(template: Template, token: int) -> Template:
    """Remove a special token from a template."""
    kept = (tuple(item for item in segment if item[0] != token) for segment in template.specials)
    return Template(tuple(kept), template.types)


def _probe_text(backend: "Backend") -> str:
    """Return a text that gives at least one token."""
    for text in ("a", "the", "1", "▁", *(backend.id_to_token(i) or "" for i in range(8))):
        if backend.encode(text, add_special_tokens=False).ids:
            return text
    raise CheckpointError(
        "The tokenizer turns every probe text into no tokens at all, so its vocabulary is empty or "
        "broken. Fetch the checkpoint again."
    )


def _read(encoding: "Encoding", texts: int) -> Template:
    """Split the encoding of a probe into its texts and the special tokens around them."""
    specials: list[list[tuple[int, int]]] = [[]]
    types: list[int] = []
    rows = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
    for token, type_id, sequence in rows:
        if sequence is None:
            specials[-1].append((token, type_id))
        elif sequence == len(types):
            types.append(type_id)
            specials.append([])
    if len(types) != texts:
        raise UnsupportedModelError(
            f"The tokenizer's template places {len(types)} of {texts} texts in order; expected the "
            "first text before the second, each once."
        )
    return Template(tuple(tuple(segment) for segment in specials), tuple(types))


def _add(template: Template, token: int, *, before: bool) -> Template:
    """Add a token before (or after) each text of a template.

    At either end of the sequence it is the outermost token; between two texts it is next to its
    own text.
    """
    specials = list(template.specials)
    last = len(template.types)
    for index, type_id in enumerate(template.types):
        place = index if before else index + 1
        outermost = place in (0, last)
        item, present = ((token, type_id),), specials[place]
        specials[place] = item + present if before == outermost else present + item
    return Template(tuple(specials), template.types)
