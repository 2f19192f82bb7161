"""Models of an index, loaded as the index and the command line ask for."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from opengte.cli.common.options import ModelOptions, load_scoring_model

if TYPE_CHECKING:
    from opengte import Encoder, LateInteraction, Reranker
    from opengte.search.model_identity import ModelIdentity


def encoder_loader(options: ModelOptions) -> "Callable[[ModelIdentity], Encoder]":
    """Return a loader of the model of an index, with the settings that the options name.

    The index refuses a model or a setting that is not its own.
    """
    context = click.get_current_context()
    named = context.get_parameter_source("model") == click.core.ParameterSource.COMMANDLINE

    def load(identity: "ModelIdentity") -> "Encoder":
        return replace(
            options,
            model=options.model if named else identity.model,
            precision=identity.precision if options.precision == "auto" else options.precision,
            max_length=options.max_length or identity.max_length,
        ).load_encoder()

    return load


def index_encoder_loader(options: ModelOptions) -> "Callable[[ModelIdentity], Encoder]":
    """Return a loader of the model of an index with its own settings, on the chosen engine."""

    def load(identity: "ModelIdentity") -> "Encoder":
        return replace(
            options,
            model=identity.model,
            precision=identity.precision,
            max_length=identity.max_length,
            revision=None,
        ).load_encoder()

    return load


def load_reranker(name: str | None, options: ModelOptions) -> "Reranker | LateInteraction | None":
    """Load a reranker or a late-interaction model, or return None without a name."""
    if name is None:
        return None
    names = ("engine", "threads", "device", "offline")
    return load_scoring_model(name, {name: getattr(options, name) for name in names})
