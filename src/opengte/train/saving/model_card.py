"""The model card of a trained model: README.md with its data, settings and metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opengte.reference.model import ReferenceModel


@dataclass(frozen=True)
class TrainingDataSource:
    """One source of training data, as the card lists it."""

    name: str
    kind: str
    rows: int
    licence: str = "not stated"
    origin: str = ""


@dataclass(frozen=True)
class TrainedModelCard:
    """The contents of the card; settings and metrics are listed by name."""

    name: str
    base_model: str | None = None
    licence: str | None = None
    languages: tuple[str, ...] = ()
    data: tuple[TrainingDataSource, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""


def write_model_card(folder: Path, card: TrainedModelCard, model: ReferenceModel) -> None:
    """Write README.md; model hubs read its front matter."""
    plan = model.plan
    reranker, masked = plan.score is not None, plan.masked is not None
    parts = [_front(card, "text-ranking" if reranker else "sentence-similarity", masked)]
    parts.append(f"# {card.name}\n")
    if card.notes:
        parts.append(card.notes.strip() + "\n")
    kind = "reranker" if reranker else "masked language model" if masked else "text encoder"
    pooling = plan.score.pooling if plan.score is not None else plan.pooling
    size = f"a vector of {plan.dimension} values" if kind == "text encoder" else "scores"
    parts.append(
        f"A {kind} of architecture `{plan.architecture}`, {len(plan.layers)} layers, "
        f"{plan.parameters:,} weights"
        + ("" if masked else f", `{pooling}` pooling, {size}")
        + ".\n"
    )
    if not masked:
        late = model.plan.token_dense is not None
        parts.append(_usage(card.name, reranker, late))
    if card.metrics:
        rows = [(name, f"{value:.4f}") for name, value in card.metrics.items()]
        parts.append("## Evaluation\n\n" + _table(("Metric", "Value"), rows))
    if card.data:
        rows5 = [(d.name, d.kind, f"{d.rows:,}", d.licence, d.origin) for d in card.data]
        head = ("Source", "Kind", "Rows", "Licence", "Origin")
        parts.append("## Training data\n\n" + _table(head, rows5))
    if card.settings:
        parts.append("## Training\n\n" + _table(("Setting", "Value"), list(card.settings.items())))
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _front(card: TrainedModelCard, task: str, masked: bool) -> str:
    lines = ["---"]
    if card.licence:
        lines.append(f"license: {card.licence}")
    if card.languages:
        lines += ["language:", *(f"- {language}" for language in card.languages)]
    if card.base_model:
        lines.append(f"base_model: {card.base_model}")
    lines.append(f"pipeline_tag: {'fill-mask' if masked else task}")
    lines.append(f"library_name: {'transformers' if masked else 'sentence-transformers'}")
    lines += ["tags:", "- opengte", "---", ""]
    return "\n".join(lines)


def _usage(name: str, reranker: bool, late: bool) -> str:
    if late:
        code = (
            "from opengte import LateInteraction\n\n"
            f'late = LateInteraction.load("{name}")\n'
            'scores = late.score("a query", ["a document", "another one"])'
        )
    elif reranker:
        code = (
            "from opengte import Reranker\n\n"
            f'reranker = Reranker.load("{name}")\n'
            'scores = reranker.score("a query", ["a document", "another one"])'
        )
    else:
        code = (
            "from opengte import Encoder\n\n"
            f'encoder = Encoder.load("{name}")\n'
            'queries = encoder.encode_query(["a query"])\n'
            'documents = encoder.encode_document(["a document", "another one"])\n'
            "print(encoder.similarity(queries, documents))"
        )
    return f"## Usage\n\n```python\n{code}\n```\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [_line(head), _line(tuple("---" for _ in head)), *(_line(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
