"""`gte search --in KB`: search in an index, and explain the ranks of documents."""

import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.knowledge_base import encoder_loader, load_reranker
from opengte.cli.common.options import ModelOptions, engine_summary, options_record
from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte import LateInteraction, Reranker
    from opengte.search.kb import KnowledgeBase
    from opengte.search.maintenance.explain import Explanation
    from opengte.search.retrieval.search import SearchHit, SearchResult

SHOWN = 420  # characters of a passage that people get to see
INDENT = " " * 5


@dataclass(frozen=True)
class IndexOptions:
    """Options of a search in an index; all need --in."""

    kb: str | None
    where: tuple[str, ...]
    leg: tuple[str, ...]
    fusion: str | None
    weight: tuple[str, ...]
    exact: bool
    diversity: float | None
    reranker: str | None
    min_confidence: float | str | None
    explain: str | None

    @property
    def given(self) -> list[str]:
        """Return the names of the given options, except --in."""
        values = {name: value for name, value in vars(self).items() if name != "kb"}
        given = [name for name, value in values.items() if value not in (None, (), False)]
        return [name.replace("_", "-") for name in given]


def _least(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | str | None:
    """Read `auto` or a number from 0 to 1."""
    if value is None or value == "auto":
        return value
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a number from 0 to 1.")
    return number


index_options = options_record(
    IndexOptions,
    "index",
    click.option("--in", "kb", metavar="KB", help="Search this index, built by `gte index`."),
    click.option(
        "--where",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Filter documents by metadata: = != < <= > >= ~ (contains) ^ (starts with); "
        "repeatable.",
    ),
    click.option(
        "--leg",
        multiple=True,
        type=click.Choice(["dense", "sparse", "lexical", "late"]),
        help="Retrieval method to use; repeatable.  [default: all that the index has]",
    ),
    click.option(
        "--fusion",
        type=click.Choice(["rrf", "weighted"]),
        help="Combine rankings by weighted standardised scores, or by reciprocal rank "
        "fusion.  [default: weighted]",
    ),
    click.option(
        "--weight",
        multiple=True,
        metavar="LEG=W",
        help="Weight of a retrieval method, such as lexical=0.5; repeatable.",
    ),
    click.option(
        "--exact",
        is_flag=True,
        help="Compare the query with every vector instead of using approximate search.",
    ),
    click.option(
        "--diversity",
        type=click.FloatRange(0, 1),
        metavar="X",
        help="Diversify results: 0 ranks by relevance only, 1 by diversity above all.",
    ),
    click.option("--reranker", metavar="MODEL", help="Rerank the best passages with this model."),
    click.option(
        "--min-confidence",
        metavar="X",
        callback=_least,
        help="Return no results if confidence is below this; `auto` uses the calibrated threshold.",
    ),
    click.option(
        "--explain",
        metavar="DOCUMENT",
        help="Explain at which stage this document (id, path, or the end of one) was dropped.",
    ),
)


def run_search(
    text: str,
    top: int,
    instruction: str | None,
    index: IndexOptions,
    options: ModelOptions,
    *,
    as_json: bool,
) -> None:
    """Search in an index and print what was found."""
    base = _opened(index, instruction, options)
    reranker = load_reranker(index.reranker, options)
    if index.explain is not None:
        _explain(base, text, top, index, reranker, as_json=as_json)
        return
    least: Any = index.min_confidence
    answer = base.search(text, top, reranker=reranker, min_confidence=least, **search_values(index))
    for hit in answer.hits:
        _print_json(hit) if as_json else _print(hit, base)
    if not answer.hits and not as_json:
        click.echo("no document answers this query")
    _summarise(answer, base)


def _opened(index: IndexOptions, instruction: str | None, options: ModelOptions) -> "KnowledgeBase":
    from dataclasses import replace

    from opengte.search.kb import KnowledgeBase

    assert index.kb is not None
    base = KnowledgeBase.open(index.kb, load=encoder_loader(options))
    if instruction is not None:
        base.identity.check(replace(base.identity, instruction=instruction), base.place)
    return base


def search_values(index: IndexOptions) -> dict[str, Any]:
    """Return the fields of `SearchOptions` that the options name."""
    from opengte.search.filters import parse_conditions
    from opengte.search.retrieval.fusion import Fusion

    weights = dict(map(_weight, index.weight or ()))
    chosen: dict[str, Any] = {
        "where": parse_conditions(index.where or ()),
        "fusion": Fusion(method=index.fusion or "weighted", weights=weights),  # type: ignore[arg-type]
        "exact": bool(index.exact),
        "diversity": index.diversity or 0.0,
    }
    if index.leg:
        chosen["legs"] = index.leg
    return chosen


def _weight(text: str) -> tuple[str, float]:
    leg, _, value = text.partition("=")
    if leg not in ("dense", "sparse", "lexical", "late"):
        raise InputError(
            f"--weight is {text!r}, expected dense=, sparse=, lexical= or late= and a number"
        )
    try:
        return leg, float(value)
    except ValueError:
        raise InputError(f"--weight is {text!r}, expected a number after {leg}=") from None


def _print(hit: "SearchHit", base: "KnowledgeBase") -> None:
    place = base.latest().roots.path_of(hit.source) if "path" in hit.metadata else hit.id
    shown = f"{place}:{hit.line}" if hit.line else str(place)
    click.echo(f"{hit.rank:3}  {hit.title or hit.id}")
    legs = [f"{name} {leg.rank} ({leg.score:.3f})" for name, leg in hit.legs.items()]
    if hit.rerank is not None:
        legs.append(f"reranked {hit.rerank:.3f}")
    if hit.confidence is not None:
        legs.append(f"confidence {hit.confidence:.2f}")
    click.echo(f"{INDENT}{click.style(shown, dim=True)}  {'  '.join(legs)}")
    if hit.passage.heading and hit.passage.heading != hit.title:
        click.echo(f"{INDENT}§ {hit.passage.heading}")
    text = textwrap.shorten(_marked(hit), SHOWN, placeholder=" …")
    click.echo(textwrap.fill(text, 92, initial_indent=INDENT, subsequent_indent=INDENT))
    if hit.duplicates:
        click.echo(f"{INDENT}near-duplicates: {', '.join(hit.duplicates)}")


def _marked(hit: "SearchHit") -> str:
    """Return the passage with the words of the query between asterisks."""
    text, parts, at = hit.passage.text, [], 0
    for start, end in hit.passage.marks:
        parts += [text[at:start], f"*{text[start:end]}*"]
        at = end
    return "".join([*parts, text[at:]])


def _print_json(hit: "SearchHit") -> None:
    row = asdict(hit)
    row["score"] = output.round_score(hit.score)
    row["metadata"] = dict(hit.metadata)
    output.print_json(row)


def _summarise(answer: "SearchResult", base: "KnowledgeBase") -> None:
    legs = ", ".join(f"{name} {count:,}" for name, count in answer.candidates.items())
    count = f"{len(answer.hits)} of {base.store.count():,} documents ({legs})"
    parts = [f"{count} in {1000 * answer.seconds['all']:.0f} ms {engine_summary(base.encoder)}"]
    if answer.confidence is not None:
        parts.append(f"confidence that an answer exists: {answer.confidence:.2f}")
    if answer.underfilled:
        parts.append("the filter left too few candidates, so exact search was used")
    click.echo("; ".join([*parts, *answer.notes]), err=True)


def _explain(
    base: "KnowledgeBase",
    text: str,
    top: int,
    index: IndexOptions,
    reranker: "Reranker | LateInteraction | None",
    *,
    as_json: bool,
) -> None:
    assert index.explain is not None
    found = base.explain(text, index.explain, k=top, reranker=reranker, **search_values(index))
    if as_json:
        output.print_json({**asdict(found), "lost_at": found.lost_at})
        return
    _print_explanation(found)


def _print_explanation(found: "Explanation") -> None:
    click.echo(found.document)
    for step in found.steps:
        sign = {True: "+", False: "-", None: " "}[step.good]
        click.echo(f" {sign} {step.name:<14}{step.found}")
    lost = found.lost_at
    click.echo("found" if lost is None else f"lost at: {lost}")
