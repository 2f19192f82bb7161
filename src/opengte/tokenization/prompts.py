"""The prompts that a model expects in front of its inputs, by role and instruction."""

import re
from dataclasses import dataclass
from pathlib import Path

from opengte.errors import CapabilityError, CheckpointError, InputError
from opengte.tokenization.checkpoint_files import read_json_if_there
from opengte.types import PromptMask, Role

PLACE = "{instruction}"


@dataclass(frozen=True)
class Prompts:
    """The prompts that a model was trained with.

    A model's fingerprint hashes the repr, so that the names here must not change.

    Attributes:
        query: Goes in front of queries.
        document: Goes in front of documents.
        plain: Goes in front of texts without a role.
        template: Goes in front of queries, its one `{instruction}` replaced, for models that take
            instructions.
        default_instruction: The instruction of queries that come without one.
        mask: What pooling leaves out of a text with a prompt.
    """

    query: str = ""
    document: str = ""
    plain: str = ""
    template: str | None = None
    default_instruction: str | None = None
    mask: PromptMask = "none"

    def __post_init__(self) -> None:
        """Check the template."""
        if self.template is not None and self.template.count(PLACE) != 1:
            raise InputError(
                f"template={self.template!r} holds {PLACE} {self.template.count(PLACE)} times; "
                "expected once, where the instruction goes."
            )

    def prefix(self, role: Role | None = None, instruction: str | None = None) -> str:
        r"""Return what goes in front of a text.

        An instruction goes in front of queries and of texts without a role: in symmetric tasks
        every text gets it. CapabilityError if the model takes no instructions, InputError if there
        is one for a document.

        >>> Prompts(template="Instruct: {instruction}\nQuery: ").prefix("query", "Find duplicates")
        'Instruct: Find duplicates\nQuery: '
        """
        if instruction is not None:
            return self._instructed(role, instruction)
        if role is None:
            return self.plain
        if role == "document":
            return self.document
        if role != "query":
            raise InputError(f"role={role!r} is not known; expected 'query', 'document' or None.")
        if self.template is not None and self.default_instruction is not None:
            return self.template.replace(PLACE, self.default_instruction)
        return self.query

    def missing_instruction(self, role: Role | None, instruction: str | None) -> bool:
        """Return whether this is a query that lacks the instruction that the model expects."""
        return self.template is not None and role == "query" and instruction is None

    def _instructed(self, role: Role | None, instruction: str) -> str:
        if self.template is None:
            raise CapabilityError(
                f"instruction={instruction!r} was given to a model that takes none; what it puts "
                f"before a query is {self.query!r}. Leave instruction out."
            )
        if role == "document":
            raise InputError(
                f"instruction={instruction!r} was given for a document; instructions go on the "
                "query side only. Leave it out, or use the role 'query'."
            )
        if not instruction.strip():
            raise InputError(
                f"instruction={instruction!r} is empty; expected a sentence that states the task. "
                "Pass None for the model's default."
            )
        return self.template.replace(PLACE, instruction)


def split_template(query: str) -> tuple[str | None, str | None]:
    """Split a query prompt that contains an instruction into the template and the instruction."""
    match = re.fullmatch(r"(Instruct: )(.+)(\nQuery: ?)", query, re.DOTALL)
    if match is None:
        return None, None
    return f"{match[1]}{{instruction}}{match[3]}", match[2]


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts in config_sentence_transformers.json; the default one has the key "".

    Keys are as published: "query", "document", "passage", "s2p_query", "web_search_query", ...
    CheckpointError if a prompt is not a string, or if the default one does not exist.
    """
    path = Path(folder) / "config_sentence_transformers.json"
    settings = read_json_if_there(path)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise CheckpointError(f"{path} has prompts={prompts!r}; expected names and their texts.")
    for name, text in prompts.items():
        if not isinstance(text, str):
            raise CheckpointError(f"{path} has the prompt {name!r}={text!r}; expected a string.")
    default = settings.get("default_prompt_name")
    if default is None:
        return dict(prompts)
    if default not in prompts:
        raise CheckpointError(
            f"{path} has default_prompt_name={default!r}, which is not among its prompts "
            f"{sorted(prompts)}. Correct the name, or set it to null."
        )
    return {**prompts, "": prompts[default]}
