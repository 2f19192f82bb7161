"""Can a model still find one fact in a long document? Generated, by length and position.

Passkey: a number hidden in random everyday sentences. Needle: a fact about a made-up person. Every
document hides its own; the question names one, and the right document must come first among all
documents of the same length and position. After LongEmbed (Zhu et al., 2024, arXiv:2404.12096).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from opengte.errors import InputError
from opengte.evaluate.cached_encoder import CachedEncoder, SupportsEmbed, VectorCache
from opengte.evaluate.report import Cell, EvaluationReport, ReportSection, ReportTable
from opengte.svg import heatmap

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
KINDS = ("passkey", "needle")
BLIND_ACCURACY = 0.5  # below this accuracy, a position counts as a blind spot

FIRST_NAMES = (
    "Alma Bruno Clara Dario Elena Felix Greta Hugo Irene Jonas Klara Linus Marta Nils Olga".split()
)
LAST_NAMES = (
    "Abel Berg Conti Duval Egger Frank Gruber Huber Ivanov Jansen Keller Lang Meyer Novak".split()
)
_THINGS = "harbour garden library bakery station market bridge museum orchard workshop".split()
_WAYS = "quiet crowded narrow sunny ancient modern colourful dusty famous remote".split()
_DOES = "opens closes fills empties wakes rests changes waits shines fades".split()
_WHEN = "at dawn|before noon|after lunch|in the evening|on Sundays|in spring|all winter".split("|")
_HOBBIES = (
    "restores violins|collects meteorites|breeds alpacas|paints lighthouses|repairs typewriters|"
    "studies glaciers|carves chess pieces|bottles elderflower syrup|maps abandoned mines|"
    "trains carrier pigeons|binds old atlases|grows saffron"
).split("|")


@dataclass(frozen=True)
class NeedleAccuracy:
    """Retrieval accuracy for one kind of fact at one length and position."""

    kind: str
    length: int
    position: float
    accuracy: float
    documents: int
    truncated: int


def check_sizes(lengths: Sequence[int], documents: int) -> None:
    """Raise InputError for lengths or a number of documents that cannot be generated.

    >>> check_sizes([512, 2048], documents=10)
    """
    if not lengths or any(not 64 <= length <= 131_072 for length in lengths):
        raise InputError(f"lengths are {list(lengths)}, expected 64 to 131072 tokens each")
    if not 2 <= documents <= len(FIRST_NAMES) * len(LAST_NAMES):
        raise InputError(
            f"documents is {documents}, expected 2 to {len(FIRST_NAMES) * len(LAST_NAMES)} a cell"
        )


def run_needle_test(
    encoder: SupportsEmbed,
    *,
    lengths: Sequence[int] = LENGTHS,
    positions: Sequence[float] = POSITIONS,
    kinds: Sequence[str] = KINDS,
    documents: int = 10,
    instruction: str | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> list[NeedleAccuracy]:
    """Return the accuracy by kind, length and position of the hidden fact.

    lengths are in the model's tokens, positions from 0 (start) to 1 (end), kinds among KINDS;
    documents is their number per length and position; advance is called with the number of texts
    encoded since the last call. Raises InputError for sizes that cannot be generated.

    >>> (cell,) = run_needle_test(
    ...     encoder, lengths=[64], positions=[0.5], kinds=["needle"], documents=2
    ... )
    >>> cell.length, cell.position, 0 <= cell.accuracy <= 1
    (64, 0.5, True)
    """
    check_sizes(lengths, documents)
    worker = CachedEncoder(encoder, cache=VectorCache(0), advance=advance)
    return [
        _cell(worker, kind, length, position, documents, instruction, seed)
        for kind in kinds
        for length in sorted(lengths)
        for position in positions
    ]


def _cell(
    worker: CachedEncoder,
    kind: str,
    length: int,
    position: float,
    documents: int,
    instruction: str | None,
    seed: int,
) -> NeedleAccuracy:
    rng = random.Random(f"{seed} {kind} {length} {position}")
    facts = generate_facts(kind, documents, rng)
    count = _counter(worker.encoder)
    texts = [generate_document(fact, length, position, count, rng) for _, fact in facts]
    before = worker.stats.truncated
    found = worker.encode(texts, "document", None)
    asked = worker.encode([question for question, _ in facts], "query", instruction)
    right = np.argmax(asked @ found.T, axis=1) == np.arange(len(facts))
    accuracy, truncated = float(right.mean()), worker.stats.truncated - before
    return NeedleAccuracy(kind, length, position, accuracy, documents, truncated)


def generate_facts(kind: str, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Return pairs of a question and the fact that answers it, about different people.

    >>> question, fact = generate_facts("passkey", 1, random.Random(0))[0]
    >>> question.startswith("What is the pass key of ")
    True
    """
    people = rng.sample([f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES], count)
    if kind == "passkey":
        return [
            (
                f"What is the pass key of {name}?",
                f"The pass key of {name} is {rng.randrange(10**5):05}.",
            )
            for name in people
        ]
    if kind != "needle":
        raise InputError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return [
        (f"What does {name} do for a hobby?", f"In spare hours {name} {rng.choice(_HOBBIES)}.")
        for name in people
    ]


def _number(rng: random.Random) -> str:
    return f"{rng.randrange(10**5):05}"


def generate_document(
    fact: str,
    length: int,
    position: float,
    count: Callable[[Sequence[str]], Sequence[int]],
    rng: random.Random,
) -> str:
    """Return everyday sentences of about `length` tokens with a fact at a position, 0 to 1.

    >>> words = lambda texts: [len(text.split()) for text in texts]
    >>> text = generate_document("Alma sings.", 100, 0.0, words, random.Random(0))
    >>> text.startswith("Alma sings. The "), 80 < len(text.split()) <= 100
    (True, True)
    """
    room = length - int(count([fact])[0])
    sentences: list[str] = []
    have = 0
    while have < room:
        batch = [_sentence(rng) for _ in range(max(4, (room - have) // 12))]
        for sentence, tokens in zip(batch, count(batch), strict=True):
            if have + int(tokens) > room:
                have = room
                break
            sentences.append(sentence)
            have += int(tokens)
    place = round(position * len(sentences))
    return " ".join([*sentences[:place], fact, *sentences[place:]])


def _sentence(rng: random.Random) -> str:
    thing, other = rng.sample(_THINGS, 2)
    return (
        f"The {rng.choice(_WAYS)} {thing} near the {other} {rng.choice(_DOES)} {rng.choice(_WHEN)}."
    )


def _counter(encoder: Any) -> Callable[[Sequence[str]], Sequence[int]]:
    """Return a function that counts tokens, special ones not included."""
    tokenizer = encoder.tokenizer
    special = int(tokenizer.count([""])[0])
    return lambda texts: [int(found) - special for found in tokenizer.count(list(texts))]


def first_blind_length(cells: Sequence[NeedleAccuracy]) -> int | None:
    """Return the shortest length at which some position is a blind spot, or None.

    >>> from dataclasses import replace
    >>> cell = NeedleAccuracy("needle", 512, 0.5, accuracy=0.2, documents=10, truncated=0)
    >>> cells = [replace(cell, length=256, accuracy=1.0), cell]
    >>> first_blind_length(cells)
    512
    """
    worst: dict[int, float] = {}
    for cell in cells:
        worst[cell.length] = min(worst.get(cell.length, 1.0), cell.accuracy)
    return next((length for length in sorted(worst) if worst[length] < BLIND_ACCURACY), None)


def needle_verdict(cells: Sequence[NeedleAccuracy], max_length: int) -> str:
    """Return the length up to which facts are found, in a sentence or two.

    >>> from dataclasses import replace
    >>> cell = NeedleAccuracy("needle", 512, 0.5, accuracy=0.2, documents=10, truncated=0)
    >>> cells = [replace(cell, length=256, accuracy=1.0), cell]
    >>> needle_verdict(cells, max_length=512).split(",")[0]
    'Blind spots begin at 512 tokens'
    """
    longest = max(cell.length for cell in cells)
    blind = first_blind_length(cells)
    chance = 1 / cells[0].documents
    if blind is None:
        return (
            f"The fact is found at every position up to {longest:,} tokens (chance: {chance:.0%})."
        )
    first = {c.position for c in cells if c.length == blind and c.accuracy < BLIND_ACCURACY}
    where = ", ".join(f"{position:.0%}" for position in sorted(first))
    cut = f" It reads {max_length:,} tokens and drops the rest." if max_length < blind else ""
    return (
        f"Blind spots begin at {blind:,} tokens, where facts at {where} of the document are found "
        f"in fewer than half of the cases (chance: {chance:.0%}).{cut}"
    )


def needle_report(cells: Sequence[NeedleAccuracy], encoder: SupportsEmbed) -> EvaluationReport:
    """Return the report: a grid of accuracy by length and position for each kind.

    >>> from dataclasses import replace
    >>> cell = NeedleAccuracy("needle", 512, 0.5, accuracy=0.2, documents=10, truncated=0)
    >>> cells = [replace(cell, length=256, accuracy=1.0), cell]
    >>> needle_report(cells, encoder).facts["documents a cell"]
    10
    """
    card = encoder.card
    return EvaluationReport(
        title=f"{card.name}: facts in long documents",
        verdict=needle_verdict(cells, card.max_length),
        sections=[_section(kind, cells, card.max_length) for kind in _kinds(cells)],
        facts={
            "model": card.name,
            "fingerprint": card.fingerprint,
            "engine": card.engine,
            "precision": card.precision,
            "reads at most": card.max_length,
            "documents a cell": cells[0].documents,
        },
        data={"cells": [asdict(cell) for cell in cells], "max_length": card.max_length},
    )


def _kinds(cells: Sequence[NeedleAccuracy]) -> list[str]:
    return list(dict.fromkeys(cell.kind for cell in cells))


def _section(kind: str, cells: Sequence[NeedleAccuracy], max_length: int) -> ReportSection:
    mine = [cell for cell in cells if cell.kind == kind]
    lengths = sorted({cell.length for cell in mine})
    positions = sorted({cell.position for cell in mine})
    found = {(cell.position, cell.length): cell.accuracy for cell in mine}
    values = [[found.get((position, length)) for length in lengths] for position in positions]
    labels = [f"{position:.0%}" for position in positions]
    plot = heatmap(
        [f"{length:,}" for length in lengths],
        labels,
        values,
        mark=_mark(lengths, max_length),
        mark_label=f"reads {max_length:,} tokens",
    )
    rows: list[tuple[Cell, ...]] = [
        (label, *(None if value is None else 100 * value for value in row))
        for label, row in zip(labels, values, strict=True)
    ]
    header = ("position", *(f"{length:,}" for length in lengths))
    text = "Share of questions whose document comes first, by length and by the fact's position."
    table = ReportTable(header, rows, digits=0)
    return ReportSection(kind.capitalize(), text, plot, [table])


def _mark(lengths: Sequence[int], max_length: int) -> int | None:
    """Return the column before which the model's limit falls."""
    for place, (_, longer) in enumerate(pairwise([0, *lengths])):
        if longer > max_length:
            return place
    return None
