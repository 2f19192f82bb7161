"""Loading the tokenizer of a checkpoint folder, with the special tokens that the model expects.

The `tokenizers` library is imported when the first tokenizer is loaded.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from opengte.checkpoint_files import sentence_config
from opengte.errors import CheckpointError, CheckpointWarning
from opengte.tokenization.backend import BackendFailure, call_backend, unknown_token
from opengte.tokenization.checkpoint_files import read_json_if_there
from opengte.tokenization.template import Template, probe_templates, with_edge_token, without_token
from opengte.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


def load_tokenizer(
    folder: Path, *, add_bos: bool | None = None, add_eos: bool | None = None
) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder.

    add_bos and add_eos decide whether the bos_token or eos_token of tokenizer_config.json goes
    around every text. True adds it, False removes it, and None follows add_bos_token and
    add_eos_token of that file, which can only add to the template.

    Raises CheckpointError if a file is missing, unreadable or contradictory, UnsupportedModelError
    if the kind of tokenizer is not known.

    >>> load_tokenizer(folder).encode(["a cat"], max_length=512).batch.lengths.tolist()
    [4]
    """
    from opengte.tokenization.from_files import build_backend
    from opengte.tokenization.special_tokens import special_tokens

    folder = Path(folder)
    backend = build_backend(folder)
    ids = {name: backend.token_to_id(token) for name, token in special_tokens(folder).items()}
    named = {name: token for name, token in ids.items() if token is not None}
    templates = _templates(backend, folder)
    for name, argument in (("bos", add_bos), ("eos", add_eos)):
        wanted = _wanted(folder, name, argument, name in named)
        if wanted:
            templates = with_edge_token(*templates, named[name], before=name == "bos")
        elif wanted is False and name in named:
            templates = (
                without_token(templates[0], named[name]),
                without_token(templates[1], named[name]),
            )
    sentence = read_json_if_there(sentence_config(folder))
    return Tokenizer(backend, *templates, named, lowercase=sentence.get("do_lower_case") is True)


def load_bare_tokenizer(folder: Path, *, without_unknown: bool) -> Tokenizer:
    """Return the tokenizer of a static model: no special tokens, and no token for an empty text.

    without_unknown drops unknown tokens, which then have no share in a text's vector.
    """
    from opengte.tokenization.from_files import build_backend

    backend = build_backend(Path(folder))
    unknown = unknown_token(backend) if without_unknown else None
    return Tokenizer(
        backend,
        Template(((), ()), (0,)),
        Template(((), (), ()), (0, 0)),
        {},
        bare=True,
        dropped=unknown,
    )


def _templates(backend: "Backend", folder: Path) -> tuple[Template, Template]:
    """Return the templates of one text and of a pair."""
    try:
        return call_backend(lambda: probe_templates(backend))
    except BackendFailure as failure:
        raise CheckpointError(
            f"The tokenizer of {folder} fails on a one-word text: {failure}. Fetch the checkpoint "
            "again."
        ) from failure


def _wanted(folder: Path, name: str, argument: bool | None, exists: bool) -> bool | None:
    """Return whether to add bos or eos (True), to remove it (False) or to leave it (None).

    Adding a token that does not exist is an error for the caller, a warning for the files.
    """
    configured = read_json_if_there(folder / "tokenizer_config.json").get(f"add_{name}_token")
    wanted = (True if configured is True else None) if argument is None else argument
    if not wanted or exists:
        return wanted
    problem = f"{folder} names no {name}_token that is in the vocabulary"
    if argument:
        raise CheckpointError(
            f"{problem}, so add_{name}=True has nothing to add. Name it in tokenizer_config.json."
        )
    message = f"{problem}, so add_{name}_token of its tokenizer_config.json is ignored. Name it."
    warnings.warn(message, CheckpointWarning, stacklevel=3)
    return None
