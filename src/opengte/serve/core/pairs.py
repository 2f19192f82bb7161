"""A reranker's pairs to token sequences."""

from collections.abc import Sequence

from opengte.encoder import Reranker
from opengte.errors import InputError
from opengte.serve.inference.tokenization import sequences
from opengte.serve.inference.types import Sequences, Source, Spec, is_pair


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
    from opengte.serve.inference.detokenization import offsets

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
