"""Documents to vectors: one for each window and one for each span (passage).

Late chunking: the model reads a whole window, and the vector of a span is the mean of the states of
its tokens, which have attended to the text around them. Such a vector is comparable with queries
only if the model pools by a mean with nothing after it; this is measured, not assumed. For other
models each span is embedded again on its own (`classic`).

Letters in shapes: t tokens of a window, s spans, d width.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import l2_normalise
from opengte.engine.maxsim import TokenVectors
from opengte.errors import InputError
from opengte.search.ingest.splitter import CharRange, SpanCounter
from opengte.search.ingest.windows import SPAN_TOKENS, DocumentWindow, split_windows
from opengte.search.parse.base import Section
from opengte.search.stores.base import SpanVectors, StoredWindow
from opengte.types import Embeddings, Floats, Output

if TYPE_CHECKING:
    from opengte.encoder import Encoder, LateInteraction

Offsets = npt.NDArray[np.int64]
DocumentParts = tuple[str, str, Sequence[Section]]  # title, text, sections
PassageMode = Literal["auto", "late", "classic", "none"]
SURROGATES = re.compile("[\ud800-\udfff]")
STATE_FLOATS = 2**25  # of token states held at once
SLAB = 2**15  # characters that are tokenised as one text, to be counted
GROUP = 2**19  # characters of documents that are tokenised at once
ALIKE = 0.999  # cosine from which the mean of the states counts as the model's own vector
PROBE = "A text of some length, by which the pooling of a model can be told from a mean of states."


@dataclass(frozen=True)
class EmbeddedDocument:
    """The windows of one document with their vectors, and whether a window lost tokens."""

    windows: tuple[StoredWindow, ...]
    truncated: bool


@dataclass(frozen=True)
class _Job:
    """A window of a document, and the text that the model reads for it."""

    document: int
    window: DocumentWindow
    text: str
    offset: int  # where the window's own characters begin in the text
    places: (
        Offsets | None
    )  # where the tokens of the text start in the document, where that is known


def pools_by_mean(encoder: "Encoder") -> bool:
    """Return whether a text's vector is the mean of its token states."""
    if "states" not in encoder.card.outputs:
        return False
    found = encoder.embed([PROBE], role="document", outputs=("dense", "states"), progress=False)
    assert found.states is not None and found.dense is not None
    states = found.states[0]
    if states.shape[1] != found.dense.shape[1]:
        return False
    return bool(l2_normalise(states.mean(axis=0)) @ found.dense[0] > ALIKE)


class Embedder:
    """Splits and embeds documents with the settings of an index."""

    def __init__(
        self,
        encoder: "Encoder",
        passages: PassageMode = "auto",
        span_tokens: int = SPAN_TOKENS,
        window_tokens: int | None = None,
        late: "LateInteraction | None" = None,
    ) -> None:
        if late is not None and passages == "none":
            raise InputError("passages='none', but late interaction scores passages; use 'auto'")
        mean = passages in ("auto", "late") and pools_by_mean(encoder)
        if passages == "late" and not mean:
            raise InputError(
                f"passages='late', but `{encoder.card.name}` does not pool by a mean of its token "
                "states: its spans would not be in the space of its queries. Use 'classic'"
            )
        self.encoder = encoder
        self.late = late
        self.passages: PassageMode = (
            ("late" if mean else "classic") if passages == "auto" else passages
        )
        self.span_tokens = span_tokens
        self._prompt = encoder.card.prompts.get("document", "")
        self._empty = int(encoder.tokenizer.count([""])[0])
        taken = int(encoder.tokenizer.count([""], prompt=self._prompt)[0])
        self._room = min(window_tokens or encoder.card.max_length, encoder.card.max_length) - taken

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, without special ones."""
        return [int(n) - self._empty for n in self.encoder.tokenizer.count(list(texts))]

    def embed(self, documents: Sequence[DocumentParts]) -> Iterator[EmbeddedDocument]:
        """Yield the windows of each document (title, text, sections), in bounded memory."""
        windows: list[StoredWindow] = []
        truncated, current = False, 0
        for job, window, lost in self._computed(self._jobs(documents)):
            while current < job.document:
                yield EmbeddedDocument(tuple(windows), truncated)
                windows, truncated, current = [], False, current + 1
            windows.append(window)
            truncated = truncated or lost
        while current < len(documents):
            yield EmbeddedDocument(tuple(windows), truncated)
            windows, truncated, current = [], False, current + 1

    def _jobs(self, documents: Sequence[DocumentParts]) -> Iterator[_Job]:
        numbered = zip(documents, self._starts(documents), strict=True)
        for number, ((title, text, sections), starts) in enumerate(numbered):
            head = self._head(title, text)
            room = self._room - (self.count([head])[0] if head else 0)
            for window in split_windows(text, sections, _measure(starts), room, self.span_tokens):
                whole = head + text[window.start : window.end]
                same = len(whole) == len(text) <= SLAB and not head and not self._prompt
                yield _Job(number, window, whole, len(head), starts if same else None)

    def _starts(self, documents: Sequence[DocumentParts]) -> Iterator[Offsets]:
        """Yield at which character each token of each document starts; many at once."""
        for group in _groups([text for _, text, _ in documents]):
            slabs = [(number, *slab) for number, text in enumerate(group) for slab in _slabs(text)]
            texts = [group[number][start:end] for number, start, end in slabs]
            found: list[list[Offsets]] = [[] for _ in group]
            made = token_starts(self.encoder.tokenizer, texts)
            for (number, start, _), own in zip(slabs, made, strict=True):
                found[number].append(own + start)
            yield from (np.concatenate(own) if own else np.zeros(0, np.int64) for own in found)

    def _head(self, title: str, text: str) -> str:
        """Return what goes before every window: the title, unless the text begins with it."""
        if not title or text.lstrip("# \n\t").startswith(title):
            return ""
        head = f"{title}\n\n"
        return head if self.count([head])[0] <= self._room // 4 else ""

    def _computed(self, jobs: Iterable[_Job]) -> Iterator[tuple[_Job, StoredWindow, bool]]:
        for batch in self._batches(jobs):
            found = self.encoder.embed(
                [job.text for job in batch],
                role="document",
                outputs=self._outputs(),
                progress=False,
            )
            spans = self._spans(batch, found)
            lost = {record.index for record in found.truncated}
            tokens, cut = self._late_vectors(batch)
            lost |= cut
            assert found.dense is not None
            for index, job in enumerate(batch):
                window = StoredWindow(
                    start=job.window.start,
                    end=job.window.end,
                    vector=found.dense[index],
                    spans=spans[index],
                    tokens=int(found.token_counts[index]),
                    sparse=found.sparse[index] if found.sparse else {},
                    late=tokens[index],
                )
                yield job, window, index in lost

    def _late_vectors(self, batch: Sequence[_Job]) -> tuple[list[TokenVectors | None], set[int]]:
        """Return the token vectors of each window's spans, and the windows where one was cut."""
        if self.late is None:
            return [None] * len(batch), set()
        spans = [
            (i, self._own(job, *span)) for i, job in enumerate(batch) for span in job.window.spans
        ]
        found = self.late.encoder.embed(
            [text for _, text in spans], role="document", outputs=("tokens",), progress=False
        )
        assert found.tokens is not None
        rows = iter(found.tokens)
        width = self.late.card.dimension
        made: list[TokenVectors | None] = []
        for job in batch:
            own = [next(rows) for _ in job.window.spans]
            kept = TokenVectors.of(own, "int8") if own else no_tokens(width)
            made.append(kept)
        return made, {spans[record.index][0] for record in found.truncated}

    def _outputs(self) -> tuple[Output, ...]:
        wanted: list[Output] = ["dense"]
        if self.passages == "late":
            wanted.append("states")
        if "sparse" in self.encoder.card.outputs:
            wanted.append("sparse")
        return tuple(wanted)

    def _batches(self, jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
        """Cut jobs into batches whose token states are not too many to hold."""
        most = max(1, STATE_FLOATS // max(1, self.encoder.card.dimension))
        batch: list[_Job] = []
        held = 0
        for job in jobs:
            tokens = min(self.encoder.card.max_length, len(job.text) + 2)
            if batch and (held + tokens > most or len(batch) == 4096):
                yield batch
                batch, held = [], 0
            batch.append(job)
            held += tokens
        if batch:
            yield batch

    def _spans(self, batch: Sequence[_Job], found: Embeddings) -> list[SpanVectors]:
        if self.passages == "none":
            return [
                quantize_spans([], np.zeros((0, self.encoder.card.dimension), np.float32))
            ] * len(batch)
        if self.passages == "classic":
            return self._classic(batch, found)
        assert found.states is not None
        tokenizer = self.encoder.tokenizer
        before = len(tokenizer.single.specials[0])
        others = [job for job in batch if job.places is None]
        starts = iter(token_starts(tokenizer, [self._prompt + job.text for job in others]))
        spans = []
        for job, states in zip(batch, found.states, strict=True):
            shift = len(self._prompt) + job.offset - job.window.start
            places = next(starts) - shift if job.places is None else job.places
            spans.append(_late(job.window, states[before:], places))
        return spans

    def _classic(self, batch: Sequence[_Job], found: Embeddings) -> list[SpanVectors]:
        """Embed every span on its own, with the title before it; a lone span is its window."""
        texts = [
            job.text[: job.offset] + self._own(job, start, end)
            for job in batch
            for start, end in job.window.spans
            if (start, end) != (job.window.start, job.window.end)
        ]
        vectors = iter(())
        if texts:
            made = self.encoder.embed(texts, role="document", progress=False).dense
            assert made is not None
            vectors = iter(made)
        assert found.dense is not None
        spans = []
        for index, job in enumerate(batch):
            whole = job.window.start, job.window.end
            rows = [
                found.dense[index] if span == whole else next(vectors) for span in job.window.spans
            ]
            spans.append(quantize_spans(job.window.spans, np.array(rows, np.float32)))
        return spans

    def _own(self, job: _Job, start: int, end: int) -> str:
        shift = job.offset - job.window.start
        return job.text[start + shift : end + shift]


def no_tokens(width: int) -> TokenVectors:
    """Return the token vectors of a window without spans."""
    none = np.zeros((0, width), np.int8)
    return TokenVectors(none, np.zeros(1, np.int64), np.zeros(0, np.float32))


def _measure(starts: Offsets) -> SpanCounter:
    """Return what counts the tokens of spans of a text, given where its tokens start."""

    def measure(spans: Sequence[CharRange]) -> Sequence[int]:
        edges = np.array(spans, dtype=np.int64).reshape(-1, 2)
        found = np.searchsorted(starts, edges)
        counts: list[int] = (found[:, 1] - found[:, 0]).tolist()
        return counts

    return measure


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cut texts into groups that are tokenised at once."""
    group: list[str] = []
    held = 0
    for text in texts:
        if group and held + len(text) > GROUP:
            yield group
            group, held = [], 0
        group.append(text)
        held += len(text)
    if group:
        yield group


def _slabs(text: str) -> Iterator[CharRange]:
    """Yield parts of a text, cut at white space where there is some, that are quickly tokenised."""
    start = 0
    while len(text) - start > SLAB:
        space = max(text.rfind(mark, start, start + SLAB) for mark in "\n ")
        end = space if space > start else start + SLAB
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def token_starts(tokenizer: Any, texts: Sequence[str]) -> list[Offsets]:
    """Return at which character each token of each text starts, special tokens left out."""
    plain = [SURROGATES.sub("\ufffd", text) for text in texts]
    made = [_lowered(text) if tokenizer.lowercase else (text, None) for text in plain]
    found = tokenizer.backend.encode_batch([text for text, _ in made], add_special_tokens=False)
    starts = []
    for encoding, (_, origin) in zip(found, made, strict=True):
        places = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
        starts.append(places if origin is None else origin[places])
    return starts


def _lowered(text: str) -> tuple[str, Offsets | None]:
    """Return a text in lower case, and where its characters came from where that moves them."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower, None
    sizes = [len(character.lower()) for character in text]
    origin = np.repeat(np.arange(len(text)), sizes)
    return lower, np.append(origin, len(text))


def _late(window: DocumentWindow, states: Floats, places: Offsets) -> SpanVectors:
    """Return the mean state of each span, given where tokens (t,) start in the document."""
    known = places[: len(states)]  # a window that was truncated has fewer states
    rows = []
    for start, end in window.spans:
        first, last = np.searchsorted(known, [start, end])
        own = states[first:last] if last > first else states[max(0, first - 1) : first + 1]
        rows.append(own.mean(axis=0) if len(own) else states.mean(axis=0))
    width = states.shape[1]
    return quantize_spans(window.spans, l2_normalise(np.array(rows, np.float32).reshape(-1, width)))


def quantize_spans(bounds: Sequence[tuple[int, int]], vectors: Floats) -> SpanVectors:
    """Return spans with their vectors (s, d) in 8 bits."""
    peaks = np.abs(vectors).max(axis=1, initial=1e-12)
    scales = (peaks / 127).astype(np.float32)
    return SpanVectors(
        np.array(bounds, dtype=np.int32).reshape(-1, 2),
        np.rint(vectors / scales[:, None]).astype(np.int8),
        scales,
    )
