"""The catalogue: what is served and what is known, from checkpoints, facts and measurements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opengte.published_models import PUBLISHED_MODELS, PublishedModel, find_published_model
from opengte.serve.console.facts import ModelFacts, all_facts
from opengte.serve.types import ModelStatus
from opengte.types import ModelCard

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a weight


@dataclass(frozen=True)
class Speed:
    """What a model computed here since the server started; p50 is that of a batch, in seconds."""

    tokens_per_second: float
    p50: float | None
    tokens: int


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the catalogue; status is None for one that is not served."""

    name: str
    published: PublishedModel | None
    facts: ModelFacts | None
    status: ModelStatus | None
    speed: Speed | None

    @property
    def card(self) -> ModelCard | None:
        """The card of the loaded model."""
        return None if self.status is None else self.status.card

    @property
    def id(self) -> str | None:
        """The full id on the Hub."""
        if self.published is not None:
            return self.published.id
        return None if self.status is None else self.status.hub_id

    @property
    def title(self) -> str:
        """What the page is called."""
        return self.facts.title if self.facts else self.name

    @property
    def summary(self) -> str:
        """One line."""
        if self.facts:
            return self.facts.summary
        return "A reranker" if self.kind == "reranker" else "Text embeddings"

    @property
    def kind(self) -> str:
        """Encoder or reranker; of a model that is loading, an encoder."""
        known = self.card or self.published
        return known.kind if known else "encoder"

    @property
    def dimension(self) -> int | None:
        """The numbers of a vector."""
        known = self.card or self.published
        return known.dimension if known and known.kind == "encoder" else None

    @property
    def max_length(self) -> int | None:
        """The tokens read of a text."""
        known = self.card or self.published
        return known.max_length if known else None

    @property
    def licence(self) -> str | None:
        """The licence of the weights."""
        known = self.published or self.card
        return known.licence if known else None

    @property
    def languages(self) -> str:
        """The languages, in words."""
        return self.facts.languages if self.facts else ""

    @property
    def parameters(self) -> float | None:
        """The weights, in millions."""
        if self.card is not None:
            return self.card.parameters / 1e6
        return self.published.parameters if self.published else None

    def memory(self) -> list[tuple[str, float]]:
        """Return the GB of the weights in each precision."""
        return (
            [(name, size * self.parameters / 1000) for name, size in BYTES.items()]
            if (self.parameters)
            else []
        )

    def specifications(self) -> list[tuple[str, str]]:
        """Return the rows of the table of specifications."""
        known = self.card or self.published
        if known is None:
            return []
        sizes = known.dimensions
        template = _template(known)
        rows = [
            ("Task", "text embedding" if self.kind == "encoder" else "reranking"),
            ("Architecture", _architecture(self)),
            ("Parameters", _size(self.parameters)),
            ("Dimension", f"{known.dimension:,}" if self.kind == "encoder" else ""),
            ("Longest input", f"{known.max_length:,} tokens"),
            ("Pooling", known.pooling or ""),
            ("Outputs", ", ".join(known.outputs)),
            ("Shorter vectors", sizes if isinstance(sizes, str) else ", ".join(map(str, sizes))),
            ("Instruction", f"{template} (query side only)" if template else ""),
            *_prompts(known),
            ("Languages", self.languages),
            ("Licence", self.licence or ""),
            ("Base model", (self.facts and self.facts.base) or ""),
            ("Weights in memory", ", ".join(f"{n} {gb:,.2g} GB" for n, gb in self.memory())),
        ]
        if self.card is not None:
            runs = (self.card.engine, self.card.precision, self.card.device)
            rows.append(("Runs here as", " · ".join(filter(None, runs))))
            rows.append(("Fingerprint", self.card.fingerprint))
        return [(name, text) for name, text in rows if text]


def catalog(
    statuses: Sequence[ModelStatus], speed_of: Callable[[str], Speed | None]
) -> list[CatalogEntry]:
    """Return what is served, then what is known and not served."""
    served = [_served(status, speed_of(status.name)) for status in statuses]
    ids = {entry.id for entry in served}
    facts = all_facts()
    return served + [
        CatalogEntry(model.id, model, facts.get(model.id), None, None)
        for model in PUBLISHED_MODELS
        if model.id not in ids
    ]


def _served(status: ModelStatus, speed: Speed | None) -> CatalogEntry:
    published = find_published_model(status.hub_id or status.name)
    facts = all_facts().get(published.id) if published else None
    return CatalogEntry(status.name, published, facts, status, speed)


def find_entry(entries: Sequence[CatalogEntry], name: str) -> CatalogEntry | None:
    """Return the model with a name, alias, full id or short id; None for an unknown one."""
    wanted = name.casefold()
    for entry in entries:
        if entry.status is not None and wanted in map(str.casefold, entry.status.names):
            return entry
    published = None if "/" in name else find_published_model(name)
    id = name if published is None else published.id
    return next((e for e in entries if e.id and e.id.casefold() == id.casefold()), None)


def suites(entries: Sequence[CatalogEntry]) -> list[str]:
    """Return the suites that two models or more have a figure of, the most frequent one first."""
    counts: dict[str, int] = {}
    for entry in entries:
        for each in entry.facts.benchmarks if entry.facts else ():
            counts[each.suite] = counts.get(each.suite, 0) + 1
    return sorted((s for s, n in counts.items() if n > 1), key=lambda suite: -counts[suite])


def licences(entries: Sequence[CatalogEntry]) -> list[str]:
    """Return the licences of all models."""
    return sorted({entry.licence for entry in entries if entry.licence})


def selected(entries: Sequence[CatalogEntry], query: Mapping[str, str]) -> list[CatalogEntry]:
    """Return the models that match a page's query, in its order; a bad value filters nothing."""
    words = query.get("q", "").casefold().split()
    kept = [entry for entry in entries if _matches(entry, words, query)]
    order = query.get("sort", "")
    if order == "speed":
        kept.sort(key=lambda entry: -(entry.speed.tokens_per_second if entry.speed else 0.0))
    elif order in ("parameters", "dimension", "max_length"):
        kept.sort(key=lambda entry: getattr(entry, order) or 0, reverse=order == "max_length")
    elif order == "name":
        kept.sort(key=lambda entry: entry.title.casefold())
    elif order:
        kept.sort(key=lambda entry: -_score(entry, order))
    return kept


def _matches(entry: CatalogEntry, words: Sequence[str], query: Mapping[str, str]) -> bool:
    text = f"{entry.name} {entry.id} {entry.title} {entry.summary} {entry.languages}".casefold()
    bounds = (
        (entry.max_length or 0) >= _number(query, "length", 0),
        (entry.dimension or 0) <= _number(query, "dimension", 1e9),
        (entry.parameters or 0) <= _number(query, "size", 1e9),
    )
    return (
        all(word in text for word in words)
        and all(bounds)
        and query.get("task", entry.kind) in ("", entry.kind)
        and query.get("licence", "") in ("", entry.licence)
        and query.get("language", "").casefold() in entry.languages.casefold()
        and (not query.get("served") or entry.status is not None)
    )


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else default


def _score(entry: CatalogEntry, suite: str) -> float:
    found = entry.facts.score(suite) if entry.facts else None
    return found.score if found else -1.0


def _architecture(entry: CatalogEntry) -> str:
    known = entry.card or entry.published
    assert known is not None
    parts = [known.architecture]
    if entry.card is not None:
        parts.append(f"{entry.card.layers} layers")
    causal = entry.published.causal if entry.published else None
    if causal is not None:
        parts.insert(0, "decoder only")
        parts.append("causal attention" if causal else "bidirectional attention")
    return ", ".join(parts)


def _size(millions: float | None) -> str:
    if not millions:
        return ""
    return f"{millions / 1000:.1f} billion" if millions >= 1000 else f"{millions:,.0f} million"


def _template(known: ModelCard | PublishedModel) -> str | None:
    return known.instruction_template if isinstance(known, ModelCard) else known.template


def _prompts(known: ModelCard | PublishedModel) -> list[tuple[str, str]]:
    if isinstance(known, ModelCard):
        prompts = dict(known.prompts)
    else:
        prompts = {"query": known.query, "document": known.document}
    return [(f"Prompt of a {role}", text) for role, text in prompts.items() if text]
