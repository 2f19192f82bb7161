"""The prompts of a checkpoint: those of its files; what they leave out, as it was published."""

import warnings
from pathlib import Path

from opengte.checkpoint.modules import read_modules
from opengte.checkpoint_files import read_optional_json
from opengte.errors import CheckpointWarning
from opengte.published_models import WEB_SEARCH, PublishedModel
from opengte.tokenization.late import LateFiles
from opengte.tokenization.prompts import Prompts, read_prompts, split_template
from opengte.types import PromptMask


def prompts_of(folder: Path, published: PublishedModel | None, late: LateFiles | None) -> Prompts:
    """Return the prompts of the files; what they leave out comes from the published model."""
    named = read_prompts(folder)
    query = _first(named, "query", "web_search_query", "s2p_query")
    document = _first(named, "document", "passage", "corpus")
    if late is not None:
        markers = late.prefixes()
        query = markers.get("query", "") + query.removeprefix(markers.get("query", ""))
        document = markers.get("document", "") + document.removeprefix(markers.get("document", ""))
    template, default = split_template(query)
    if published is not None:
        _compare_prompts(query, published, folder)
        template = template or published.template
        query, document = query or published.query, document or published.document
    if template is not None:
        query, default = "", default or WEB_SEARCH
    return Prompts(
        query=query,
        document=document,
        plain=named.get("") or (published.plain if published else ""),
        template=template,
        default_instruction=default if template else None,
        mask="none" if late else _mask(folder, published),
    )


def _mask(folder: Path, published: PublishedModel | None) -> PromptMask:
    module = read_modules(folder).first("Pooling")
    pooling = read_optional_json(module.folder / "config.json") if module else {}
    if pooling.get("include_prompt") is False:
        return "prompt"
    return published.mask if published else "none"


def _compare_prompts(query: str, published: PublishedModel, folder: Path) -> None:
    prompt = published.template.split("{")[0] if published.template else published.query
    if query and not query.startswith(prompt):
        warnings.warn(
            f"the files of `{folder.name}` put {query!r:.80} before a query, but {published.id} "
            f"was published with {prompt!r:.80}; the files are followed",
            CheckpointWarning,
            stacklevel=4,
        )


def _first(prompts: dict[str, str], *names: str) -> str:
    return next((prompts[name] for name in names if prompts.get(name)), "")
