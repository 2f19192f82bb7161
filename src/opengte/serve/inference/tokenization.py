"""From what a request holds to token sequences, with the model's own prompts and limits."""

from collections.abc import Sequence

import numpy as np

from opengte.encoder import Encoder, Reranker
from opengte.errors import InputError
from opengte.serve.inference.detokenization import offsets
from opengte.serve.inference.types import Sequences, Source, Spec, is_pair
from opengte.tokenization.ragged import Ragged, pack_sequences, truncate
from opengte.tokenization.template import Template
from opengte.types import PackedBatch, Tokenized

PLAIN_CHARACTERS = 2000  # of a text that is tokenised the short way
CHARACTERS_PER_TOKEN = 4  # of a text that nobody has looked at


def estimate(source: Source, max_length: int) -> int:
    """Guess the tokens of an input, without tokenising it."""
    if isinstance(source, str):
        guess = len(source) // CHARACTERS_PER_TOKEN + 2
    elif is_pair(source):
        guess = (len(source[0]) + len(source[1])) // CHARACTERS_PER_TOKEN + 3  # type: ignore[arg-type]
    else:
        guess = len(source) + 2
    return min(guess, max_length)


def characters(source: Source) -> int:
    """Return how much there is to tokenise."""
    if isinstance(source, str):
        return len(source)
    return len(source[0]) + len(source[1]) if is_pair(source) else len(source)  # type: ignore[arg-type]


def tokenise(
    model: Encoder | Reranker, spec: Spec, sources: Sequence[Source]
) -> list[Sequences | InputError]:
    """Tokenise inputs of one spec, each into a batch of one or many; errors stay with their input.

    Returns one entry for all, or one an input when some of them cannot be tokenised.
    """
    try:
        return [_tokenise(model, spec, sources)]
    except InputError as error:
        if len(sources) == 1:
            return [error]
    return [tokenise(model, spec, [source])[0] for source in sources]


def _tokenise(model: Encoder | Reranker, spec: Spec, sources: Sequence[Source]) -> Sequences:
    if isinstance(model, Reranker):
        return tokenise_pairs(model, spec, sources)
    if all(isinstance(source, str) for source in sources):
        return _texts(model, spec, sources)  # type: ignore[arg-type]
    if not any(isinstance(source, str) for source in sources):
        return _ids(model, spec, sources)  # type: ignore[arg-type]
    raise InputError("texts and token ids are mixed")  # tokenised one by one then


def _texts(model: Encoder, spec: Spec, texts: Sequence[str]) -> Sequences:
    if len(texts) == 1 and (lone := _plain_text(model, spec, texts[0])) is not None:
        return lone
    tokenized = model.tokenizer.encode(
        texts,
        prompt=spec.prefix,
        max_length=model.card.max_length,
        truncation=spec.side,
        mask=spec.mask,
    )
    return sequences(tokenized)


def _plain_text(model: Encoder, spec: Spec, text: str) -> Sequences | None:
    """Tokenise one ordinary text, a query on its own: what `_texts` does, in a third of the time.

    None for all that takes more than this: long texts, repairs, masks, lower case.
    """
    tokenizer = model.tokenizer
    whole = spec.prefix + text
    if len(whole) > PLAIN_CHARACTERS or not whole.isascii() or tokenizer.lowercase:
        return None
    if spec.prefix and spec.mask != "none":
        return None
    try:
        ids = tokenizer.backend.encode(whole, add_special_tokens=False).ids
    except Exception:
        return None
    template = tokenizer.single
    length = len(ids) + template.size
    if not ids or length > model.card.max_length:
        return None
    before, after = template.specials
    row = np.array([*(t for t, _ in before), *ids, *(t for t, _ in after)], dtype=np.int32)
    types = np.full(length, template.types[0], dtype=np.int32)
    types[: len(before)] = [t for _, t in before]
    types[length - len(after) :] = [t for _, t in after]
    bounds = np.array([0, length], dtype=np.int32)
    return Sequences(PackedBatch(row, bounds, types, np.zeros(1, np.int32)), [length])


def sequences(tokenized: Tokenized) -> Sequences:
    """Return tokenised texts with the tokens that each had before truncation."""
    found = tokenized.batch.lengths.tolist()
    for record in tokenized.truncated:
        found[record.index] = record.found
    return Sequences(tokenized.batch, found, frozenset(tokenized.repaired))


def _ids(model: Encoder, spec: Spec, rows: Sequence[tuple[int, ...]]) -> Sequences:
    """Put the prompt's and the special tokens around token ids, unless they are there already."""
    template, limit = model.tokenizer.single, model.card.max_length
    vocabulary = min(model.checkpoint.plan.embedding.vocabulary, 2**31 - 1)
    for row in rows:
        _check_ids(row, vocabulary)
    head, pool_from = _prompt(model, spec)
    bodies = [(*head, *_body(row, template)) for row in rows]
    lengths = np.array([len(body) for body in bodies], dtype=np.int64)
    if not lengths.all() and template.size == 0:
        raise InputError("an input of token ids is empty, expected at least one id")
    flat = np.fromiter((token for body in bodies for token in body), np.int32, int(lengths.sum()))
    room = limit - template.size
    if room <= len(head):
        raise InputError(f"max_length = {limit} leaves no room for token ids after the prompt")
    heads = np.full(len(rows), len(head)) if spec.side == "left" else None
    kept = truncate(Ragged(flat, lengths), np.full(len(rows), room), heads)
    batch = pack_sequences(template, [kept], np.full(len(rows), pool_from))
    return Sequences(batch, (lengths + template.size).tolist())


def _check_ids(row: tuple[int, ...], vocabulary: int) -> None:
    if not row:
        raise InputError("an input of token ids is empty, expected at least one id")
    for token in row:
        if isinstance(token, bool) or not isinstance(token, int):
            raise InputError(f"a token id is {token!r:.40}, expected a whole number")
    worst = min(row) if min(row) < 0 else max(row)
    if not 0 <= worst < vocabulary:
        raise InputError(
            f"token id {worst} is not one of this model's: expected 0 to {vocabulary - 1}. Token "
            "ids must come from the model's own tokenizer; send text instead."
        )


def _body(row: tuple[int, ...], template: Template) -> tuple[int, ...]:
    """Return token ids without the special tokens around them."""
    before, after = (tuple(token for token, _ in part) for part in template.specials)
    if before and row[: len(before)] == before:
        row = row[len(before) :]
    if after and row[-len(after) :] == after:
        row = row[: -len(after)]
    return row


def _prompt(model: Encoder, spec: Spec) -> tuple[list[int], int]:
    """Return the tokens of the prompt alone, and how many leading tokens the pooling leaves out."""
    if not spec.prefix:
        return [], 0
    batch = plain(model, spec.prefix)
    ids = batch.ids.tolist()
    if spec.mask == "none":
        return ids, 0
    return ids, len(ids) + (len(model.tokenizer.single.specials[0]) if spec.mask == "prompt" else 0)


def plain(model: Encoder, text: str) -> PackedBatch:
    """Return the tokens of one text, without special tokens and never truncated."""
    tokenizer = model.tokenizer
    batch = tokenizer.encode([text], max_length=2**30).batch
    first = len(tokenizer.single.specials[0])
    last = len(batch.ids) - len(tokenizer.single.specials[1])
    ids = batch.ids[first:last]
    cu_seqlens = np.array([0, len(ids)], dtype=np.int32)
    return PackedBatch(ids, cu_seqlens, batch.type_ids[first:last], np.zeros(1, np.int32))


def tokenise_pairs(model: Reranker, spec: Spec, sources: Sequence[Source]) -> Sequences:
    """Tokenise (query, document) pairs, documents cut to max_document_tokens first."""
    pairs: list[tuple[str, str]] = []
    for source in sources:
        if not is_pair(source):
            raise InputError(f"a pair is {source!r:.60}, expected two texts")
        pairs.append(source)  # type: ignore[arg-type]
    limit = spec.max_document_tokens
    lost = [0] * len(pairs)
    if limit is not None:
        cut = cut_texts(model, [document for _, document in pairs], limit, spec.side == "left")
        pairs = [(query, text) for (query, _), (text, _) in zip(pairs, cut, strict=True)]
        lost = [dropped for _, dropped in cut]
    tokenized = model.tokenize(pairs, instruction=spec.instruction, truncation=spec.side)
    found = sequences(tokenized)
    counts = [tokens + more for tokens, more in zip(found.found, lost, strict=True)]
    return Sequences(found.batch, counts, found.repaired)


def cut_texts(
    model: Reranker, texts: Sequence[str], limit: int, left: bool
) -> list[tuple[str, int]]:
    """Return each text cut to limit tokens of its own, and how many tokens it lost."""
    result = []
    for text, spans in zip(texts, offsets(model.tokenizer, texts), strict=True):
        lost = len(spans) - limit
        if lost <= 0:
            result.append((text, 0))
        elif left:
            result.append((text[spans[lost][0] :], lost))
        else:
            result.append((text[: spans[limit - 1][1]], lost))
    return result
