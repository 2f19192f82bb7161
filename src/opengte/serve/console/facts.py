"""What is known of published models beyond their files: one TOML file each, in `model_facts/`."""

from functools import cache
from importlib import resources

import msgspec

from opengte.published_models import find_published_model


class Benchmark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published figure: who said so, and when."""

    suite: str
    score: float
    source: str
    date: str


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question about a model, answered."""

    question: str
    answer: str


class ModelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts of one model; months are written 2024-06, rivals are Hub ids."""

    id: str
    title: str
    summary: str
    languages: str
    about: str
    published: str | None = None
    updated: str | None = None
    base: str | None = None
    training: str | None = None
    paper: str | None = None
    best_for: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    benchmarks: tuple[Benchmark, ...] = ()
    questions: tuple[Answer, ...] = ()

    def score(self, suite: str) -> Benchmark | None:
        """Return the figure of a suite, or None."""
        return next((each for each in self.benchmarks if each.suite == suite), None)


@cache
def all_facts() -> dict[str, ModelFacts]:
    """Return the facts of every model that has a file, by Hub id.

    >>> all_facts()["thenlper/gte-small"].published
    '2023-07'
    """
    folder = resources.files("opengte.serve.console").joinpath("model_facts")
    files = (file.read_bytes() for file in folder.iterdir() if file.name.endswith(".toml"))
    found = [msgspec.toml.decode(content, type=ModelFacts) for content in files]
    return {each.id: each for each in found}


def facts_of(name: str | None) -> ModelFacts | None:
    """Return the facts of a Hub id or short name, or None."""
    published = None if name is None else find_published_model(name)
    return None if published is None else all_facts().get(published.id)
