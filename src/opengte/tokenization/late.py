"""Late interaction: what a checkpoint says of markers, expansion, lengths and skipped tokens.

PyLate keeps it in config_sentence_transformers.json, sentence-transformers 6 in the settings of its
files. Both are read to the same `LateSettings`.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte.errors import CheckpointError, UnsupportedModelError
from opengte.tokenization.tokenizer import Tokenizer
from opengte.types import Ints, PackedBatch, Role, Tokenized

SIMILARITIES = {"maxsim": False, "meanmaxsim": True}
KEYS = frozenset(  # of the files that `LateFiles` holds, which others do not know
    (
        "query_prefix document_prefix query_length document_length query_expansion "
        "do_query_expansion attend_to_expansion_tokens skiplist_words"
    ).split()
)
EXPANDED = 32  # tokens of an expanded query where the files do not say it (ColBERT)


@dataclass(frozen=True)
class Expansion:
    """Queries are filled with a token up to `length`, which also bounds them if `fixed`.

    These tokens are scored. If not `attend`, they see the query's own tokens and are not seen.
    """

    length: int
    token: int
    attend: bool = False
    fixed: bool = True


@dataclass(frozen=True)
class LateSettings:
    """How a late-interaction model reads texts, and which of their vectors are scored.

    Attributes:
        query_length: The most tokens of a query, markers and special tokens included.
        document_length: The most tokens of a document.
        expansion: What queries are filled with.
        skipped: Ids of tokens that are not scored, such as punctuation.
        skipped_of: The roles whose tokens are skipped; texts without a role count as documents.
        first: Whether the first token, which stands for the whole text, is scored.
        mean: Whether a score is the mean over query tokens, not their sum.
        normalised: Whether token vectors are L2-normalised.
        pool_factor: Documents keep about one vector for this many tokens.
        protected: Leading vectors of a document that are not pooled.
        pooled_normalised: Whether vectors are normalised again after pooling.
    """

    query_length: int | None = None
    document_length: int | None = None
    expansion: Expansion | None = None
    skipped: tuple[int, ...] = ()
    skipped_of: tuple[str, ...] = ("document",)
    first: bool = True
    mean: bool = False
    normalised: bool = True
    pool_factor: float = 1.0
    protected: int = 1
    pooled_normalised: bool = True

    def described(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, for people."""
        expansion = self.expansion
        shown = {
            "score": "mean" if self.mean else "sum",
            "query_length": self.query_length or (expansion.length if expansion else None),
            "document_length": self.document_length,
            "expansion": None if expansion is None else expansion.length,
            "skipped": len(self.skipped) or None,
            "pool_factor": self.pool_factor if self.pool_factor > 1 else None,
        }
        return {name: value for name, value in shown.items() if value is not None}

    def limit(self, role: Role | None, longest: int) -> int:
        """Return the most tokens that a text with this role may have; longest is the model's."""
        if role == "query" and self.expansion is not None:
            bound = self.expansion.length
            if not self.expansion.fixed:
                bound = max(bound, self.query_length or longest)
        else:
            named = {"query": self.query_length, "document": self.document_length}
            bound = named.get(role or "", None) or longest
        return min(bound, longest)

    def expand(self, tokenized: Tokenized, role: Role | None) -> Tokenized:
        """Fill queries with the token of the expansion."""
        if role != "query" or self.expansion is None:
            return tokenized
        return replace(tokenized, batch=_expanded(tokenized.batch, self.expansion))

    def scored(self, ids: Ints, role: Role | None) -> npt.NDArray[np.bool_]:
        """Return which tokens of one text are scored, (t,)."""
        kept = np.ones(len(ids), bool)
        if self.skipped and (role or "document") in self.skipped_of:
            kept &= ~np.isin(ids, self.skipped)
        kept[:1] &= self.first
        return kept


def _expanded(batch: PackedBatch, expansion: Expansion) -> PackedBatch:
    own = batch.lengths
    lengths = np.maximum(own, expansion.length)
    cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    ids = np.full(cu_seqlens[-1], expansion.token, np.int32)
    types = np.zeros_like(ids)
    within = np.arange(len(batch.ids)) - np.repeat(batch.cu_seqlens[:-1], own)
    place = within + np.repeat(cu_seqlens[:-1], own)
    ids[place], types[place] = batch.ids, batch.type_ids
    attended = None if expansion.attend else own
    return PackedBatch(ids, cu_seqlens, types, batch.pool_from, attended)


# --- reading a checkpoint ---


@dataclass(frozen=True)
class LateFiles:
    """The settings of a folder's files: of sentence-transformers, its first module, the later ones.

    later has, for the names of modules such as `MultiVectorMask`, the settings of each; dense has
    the folders of projections.
    """

    folder: Path
    sentence: Mapping[str, Any]
    transformer: Mapping[str, Any]
    later: Mapping[str, Mapping[str, Any]]
    dense: tuple[Path, ...] = ()

    @property
    def pylate(self) -> bool:
        """Whether PyLate wrote the folder: its settings are all in one file."""
        return self.sentence.get("model_type") == "ColBERT"

    def prefixes(self) -> dict[str, str]:
        """Return PyLate's markers by role, which the tokenizer reads as one token each."""
        keys = {"query": "query_prefix", "document": "document_prefix"}
        found = {role: self.sentence.get(key) for role, key in keys.items()}
        return {role: str(text) for role, text in found.items() if text is not None}


def read_late_settings(files: LateFiles, tokenizer: Tokenizer) -> LateSettings:
    """Return what the files say; CheckpointError or UnsupportedModelError for what they may not."""
    sentence = files.sentence
    mask = files.later.get("MultiVectorMask", {})
    pooling = files.later.get("HierarchicalTokenPooling")
    words = mask.get("skiplist_words", sentence.get("skiplist_words"))
    if words is None:
        words = list(string.punctuation) if files.pylate else []
    roles = mask.get("skiplist_tasks") or ["document"]
    expansion = _expansion(files, tokenizer)
    similarity = sentence.get("similarity_fn_name") or "maxsim"
    query_length = None if expansion and expansion.fixed else _length(files, "query_length")
    settings = LateSettings(
        query_length=query_length,
        document_length=_length(files, "document_length"),
        expansion=expansion,
        skipped=_ids(words, tokenizer),
        skipped_of=(roles,) if isinstance(roles, str) else tuple(roles),
        mean=SIMILARITIES.get(similarity, False),
        normalised=files.pylate or "Normalize" in files.later or not files.later,
    )
    if pooling is None:
        return settings
    return replace(
        settings,
        pool_factor=float(pooling.get("pool_factor", 1.0)),
        protected=int(pooling.get("num_protected_tokens", 1)),
        pooled_normalised=pooling.get("normalize_embeddings") is True,
    )


def _length(files: LateFiles, key: str) -> int | None:
    place, value = "sentence_bert_config.json", files.transformer.get(key)
    if value is None:
        place, value = "config_sentence_transformers.json", files.sentence.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"`{files.folder / place}` has {key} = {value!r}, expected a whole number of tokens, "
            "at least 1. Correct it."
        )
    return value


def _expansion(files: LateFiles, tokenizer: Tokenizer) -> Expansion | None:
    sentence, found = files.sentence, files.transformer.get("query_expansion")
    if "query_expansion" not in files.transformer:
        found = sentence.get("query_expansion")
    if "query_expansion" not in {**files.transformer, **sentence} and _has_markers(files):
        if sentence.get("do_query_expansion") is False:
            return None
        attend = sentence.get("attend_to_expansion_tokens")
        length = _length(files, "query_length") or EXPANDED
        found = {"strategy": "fixed", "attend": bool(attend), "length": length}
    if not found:
        return None
    where = f"`{files.folder}`: query_expansion = {found!r}"
    stated = found.get("length") if isinstance(found, Mapping) else None
    strategy = found.get("strategy") if isinstance(found, Mapping) else None
    if not isinstance(stated, int) or stated < 1 or strategy not in ("fixed", "min"):
        raise UnsupportedModelError(
            f"{where}, expected an object with the strategy `fixed` or `min`, and a length in "
            "tokens. Correct it in sentence_bert_config.json."
        )
    token = _expansion_token(found.get("token"), tokenizer, where)
    return Expansion(stated, token, found.get("attend") is True, strategy == "fixed")


def _has_markers(files: LateFiles) -> bool:
    keys = "query_length document_length do_query_expansion attend_to_expansion_tokens "
    keys += "query_prefix document_prefix skiplist_words"
    return any(key in files.sentence for key in keys.split())


def _expansion_token(name: str | None, tokenizer: Tokenizer, where: str) -> int:
    named = tokenizer.named.get("mask", tokenizer.named.get("eos"))
    found = named if name is None else tokenizer.token_id(name)
    if found is None:
        raise CheckpointError(
            f"{where} fills queries with {name or 'the mask token'}, which the tokenizer lacks. "
            "Name a token of the vocabulary as query_expansion.token."
        )
    return found


def _ids(words: object, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids of skipped words; those that are no single token are never met."""
    names = [str(word) for word in words] if isinstance(words, list) else []
    unknown = tokenizer.named.get("unk")
    ids = {tokenizer.token_id(name) for name in names}
    return tuple(sorted(found for found in ids if found is not None and found != unknown))


def with_markers(tokenizer: Tokenizer, prefixes: Mapping[str, str]) -> Tokenizer:
    """Return the tokenizer with PyLate's markers as special tokens, which texts are cut at.

    A marker that is not in the vocabulary stays ordinary text, as in sentence-transformers.
    """
    from tokenizers import AddedToken

    backend = tokenizer.backend
    for prefix in prefixes.values():
        for marker in (prefix, *prefix.split(None, 1)[:1]):
            if marker and backend.token_to_id(marker) is not None:
                if backend.encode(marker, add_special_tokens=False).tokens != [marker]:
                    backend.add_special_tokens([AddedToken(marker, normalized=False, special=True)])
                break
    return tokenizer
