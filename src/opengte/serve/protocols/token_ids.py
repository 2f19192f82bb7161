"""Token ids of another tokenizer than the served model's: decoded to text or refused.

LangChain's OpenAIEmbeddings, among others, splits texts with OpenAI's tokenizer and sends its ids.
They are turned back into text with OpenAI's published vocabularies (`*.tiktoken`: a token in base64
and its rank, one a line), which are checked by their sha256.
"""

import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opengte.errors import InputError

ADVICE = (
    "Send text instead: with LangChain, OpenAIEmbeddings(check_embedding_ctx_length=False); with "
    'other clients, strings as `input`. If they are the served model\'s own ids, say "token_ids": '
    '"model" in the request, or start the server with --token-ids model.'
)

# name -> (sha256 of the published file, special tokens)
PUBLISHED: dict[str, tuple[str, dict[int, str]]] = {
    "cl100k_base": (
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        {
            100257: "<|endoftext|>",
            100258: "<|fim_prefix|>",
            100259: "<|fim_middle|>",
            100260: "<|fim_suffix|>",
            100276: "<|endofprompt|>",
        },
    ),
    "o200k_base": (
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        {199999: "<|endoftext|>", 200018: "<|endofprompt|>"},
    ),
}

# file names in tiktoken's own cache: the sha1 of the address where they were published
CACHED_AS = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}

OPENAI_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")


@dataclass(frozen=True)
class Vocabularies:
    """OpenAI's vocabularies by name, each {id: bytes}; empty if none were given."""

    tokens: Mapping[str, Mapping[int, bytes]] = field(default_factory=dict)

    def decode(self, ids: Sequence[int], name: str) -> str:
        """Return the text of ids; InputError for an unknown vocabulary or id.

        Bytes that are not UTF-8, as of a character that a client split in two, become U+FFFD.
        """
        vocabulary = self.tokens.get(name)
        if vocabulary is None:
            raise InputError(
                f"input has token ids of {name}, and this server was started without that "
                f"vocabulary (--tiktoken-files). {ADVICE}"
            )
        try:
            return b"".join([vocabulary[token] for token in ids]).decode("utf-8", "replace")
        except KeyError as missing:
            raise InputError(
                f"input has the token id {missing.args[0]}, which {name} does not have. {ADVICE}"
            ) from None


def read_vocabularies(path: Path) -> Vocabularies:
    """Return the vocabularies in a folder, or in one file.

    Files are called `cl100k_base.tiktoken` and `o200k_base.tiktoken`, or as in tiktoken's cache.
    Raises InputError if there is none, and for a file that is not the published one.
    """
    vocabularies = {}
    for name in PUBLISHED:
        for file in (path / f"{name}.tiktoken", path / CACHED_AS[name], path):
            if file.is_file() and (file != path or _named(file, name)):
                vocabularies[name] = _read(file, name)
                break
    if not vocabularies:
        expected = ", ".join(f"{name}.tiktoken" for name in PUBLISHED)
        raise InputError(
            f"tiktoken_files={str(path)!r} holds no vocabulary; expected a folder with {expected}, "
            "or one of them."
        )
    return Vocabularies(vocabularies)


def _named(file: Path, name: str) -> bool:
    return file.stem == name or file.name == CACHED_AS[name]


def _read(file: Path, name: str) -> dict[int, bytes]:
    content = file.read_bytes()
    expected, special = PUBLISHED[name]
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise InputError(
            f"{file} has the sha256 {actual}; the published {name} has {expected}. Fetch it again."
        )
    tokens = {}
    for line in content.splitlines():
        token, _, rank = line.partition(b" ")
        tokens[int(rank)] = binascii.a2b_base64(token)
    return tokens | {number: text.encode() for number, text in special.items()}


def vocabulary_of(model: str | None, declared: str | None, rule: str) -> str | None:
    """Return the vocabulary of a request's token ids, or None for the served model's own.

    declared is what the request says (`model` or a vocabulary), rule the server's --token-ids.
    Raises InputError if the vocabulary cannot be known.
    """
    if declared is not None:
        return None if declared == "model" else declared
    if rule == "model":
        return None
    if rule == "tiktoken" or (rule == "auto" and model in OPENAI_MODELS):
        return "cl100k_base"
    raise InputError(
        "input has token ids, and ids of another tokenizer (OpenAI's cl100k_base, which OpenAI "
        f"clients send) would give wrong vectors without any sign of it. {ADVICE}"
    )
