"""Options that several commands share, and the records that they become.

A decorator adds a group of options to a command and hands the command one frozen record.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from opengte import Encoder, LateInteraction, Reranker
    from opengte.types import Embeddings

AnyFunction = Callable[..., Any]


@dataclass(frozen=True)
class ModelOptions:
    """The model to load, and how to run it."""

    model: str | None
    engine: str
    precision: str
    threads: int | None
    device: str | None
    revision: str | None
    max_length: int | None
    offline: bool | None

    def load_encoder(self) -> "Encoder":
        """Load the chosen encoder, or the default one."""
        import opengte

        return opengte.Encoder.load(self.name, **self._settings())

    def load_reranker(self) -> "Reranker | LateInteraction":
        """Load the chosen reranker, or late-interaction model."""
        return load_scoring_model(self.name, self._settings())

    @property
    def name(self) -> str:
        """Return the name of the chosen model, or of the default one."""
        from opengte.hub import DEFAULT_MODEL

        return self.model or DEFAULT_MODEL

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}


@dataclass(frozen=True)
class TextOptions:
    """How texts are embedded."""

    role: str | None
    instruction: str | None
    dimensions: int | None
    truncation: str

    def embed(
        self, encoder: "Encoder", texts: list[str], outputs: tuple[str, ...] = ("dense",)
    ) -> "Embeddings":
        """Embed texts with these options."""
        options: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return encoder.embed(texts, outputs=outputs, progress=False, **options)  # type: ignore[arg-type]


def load_scoring_model(name: str, settings: dict[str, Any]) -> "Reranker | LateInteraction":
    """Load a model that scores documents: a reranker, or one of late interaction."""
    import opengte
    from opengte.errors import CheckpointError

    try:
        return opengte.Reranker.load(name, **settings)
    except CheckpointError:  # raised again if it is neither
        from opengte.encoder import load_scorer

        return load_scorer(name, **settings)


def engine_summary(model: "Encoder | Reranker") -> str:
    """Return the engine and the precision of a model, which change the numbers."""
    return f"({model.card.engine}, {model.card.precision})"


def note_default_instruction(model: "Encoder | Reranker | LateInteraction") -> None:
    """Say on stderr that queries took the instruction which stands for none."""
    if model.counters.missing_instructions:
        click.echo("note: no --instruction given, using the model's default instruction", err=True)


def options_record(
    record: "type[DataclassInstance]", parameter: str, *options: AnyFunction
) -> Callable[[AnyFunction], AnyFunction]:
    """Return a decorator that adds options and hands their values over as one record."""

    def decorate(command: AnyFunction) -> AnyFunction:
        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            mine = {field.name: values.pop(field.name) for field in fields(record)}
            return command(**{parameter: record(**mine)}, **values)

        return combine_options(*options)(wrapper)

    return decorate


def combine_options(*options: AnyFunction) -> Callable[[AnyFunction], AnyFunction]:
    """Return a decorator that adds options, in the order in which help shows them."""
    return lambda command: functools.reduce(lambda f, option: option(f), reversed(options), command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")

hub_options = combine_options(
    click.option("--revision", metavar="NAME", help="Branch, tag or commit of a Hub model."),
    click.option(
        "--offline",
        is_flag=True,
        flag_value=True,
        default=None,
        help="Use only local files; never contact the Hub.",
    ),
)

run_options = combine_options(
    click.option(
        "--engine",
        type=click.Choice(["auto", "native", "torch"]),
        default="auto",
        show_default=True,
        help="Inference engine.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
        default="auto",
        show_default=True,
        help="Numerical precision.",
    ),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of CPU threads."),
    click.option("--device", metavar="NAME", help="Device: cpu, cuda, cuda:1, ..."),
    click.option(
        "--max-length",
        type=click.IntRange(1),
        metavar="TOKENS",
        help="Maximum tokens per text, if lower than the model's limit.",
    ),
    hub_options,
)

encoder_options = options_record(
    ModelOptions,
    "options",
    click.option(
        "-m",
        "--model",
        envvar="GTE_MODEL",
        show_envvar=True,
        metavar="MODEL",
        help="Hub id, folder, pypi:NAME or alias of a model.  [default: minilm]",
    ),
    run_options,
)

reranker_options = options_record(
    ModelOptions,
    "options",
    click.option(
        "-m",
        "--model",
        required=True,
        envvar="GTE_RERANKER",
        show_envvar=True,
        metavar="MODEL",
        help="Hub id, folder or pypi:NAME of a reranker.",
    ),
    run_options,
)

text_options = options_record(
    TextOptions,
    "text",
    click.option(
        "--role",
        type=click.Choice(["query", "document"]),
        help="Prepend the model's prompt for queries or for documents.",
    ),
    click.option(
        "--instruction", metavar="TEXT", help="Task description, for models that take instructions."
    ),
    click.option(
        "--dimensions",
        type=click.IntRange(1),
        metavar="N",
        help="Truncate vectors to their first N dimensions (Matryoshka models).",
    ),
    click.option(
        "--truncation",
        type=click.Choice(["right", "left", "error"]),
        default="right",
        show_default=True,
        help="Side from which overlong texts are truncated; `error` rejects them.",
    ),
)
