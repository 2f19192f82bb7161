"""Tools for language-model agents: JSON answers within a token budget.

Every token costs an agent money and context. So a whole answer is counted, with names and brackets,
by the tokenizer of the index's model, and it states what had to be cut.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError
from opengte.search.filters import Filter
from opengte.search.stores.base import StoredDocument

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction, Reranker
    from opengte.search.kb import KnowledgeBase
    from opengte.search.retrieval.search import SearchHit

DEFAULT_TOKENS = 2000  # of an answer, unless the caller wants another number
MIN_TOKENS, MAX_TOKENS = 64, 1_000_000
MAX_RESULTS = 50
PER_TOKEN = 8  # characters; a tokenizer may take a page without spaces for one unknown word
SHORTEST = 160  # characters of a passage below which fewer results say more
TITLE = 200
PAGE = "page "

Fits = Callable[[Mapping[str, Any]], bool]


class AgentTools:
    """Searches and reads one knowledge base, with at most `most` tokens in an answer.

    Documents that do not match `only` do not exist for the agent.
    """

    def __init__(
        self,
        kb: "KnowledgeBase",
        *,
        only: Filter | None = None,
        most: int = 8 * DEFAULT_TOKENS,
        reranker: "Reranker | LateInteraction | None" = None,
    ) -> None:
        if not MIN_TOKENS <= most <= MAX_TOKENS:
            raise InputError(f"most is {most}, expected {MIN_TOKENS} to {MAX_TOKENS:,} tokens")
        self._kb = kb
        self._only = only
        self.most = most
        self.reranker = reranker

    @property
    def kb(self) -> "KnowledgeBase":
        """The documents that may be seen, of the index as it is now."""
        self._kb.latest()  # also where the knowledge base is in a bucket
        return self._kb.limited(self._only)

    def search(
        self,
        query: str,
        limit: int = 5,
        where: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> str:
        """Return the best passages, each with the id under which `fetch` reads its document.

        options are those of `SearchOptions`.
        """
        if not 1 <= limit <= MAX_RESULTS:
            raise InputError(f"limit is {limit}, expected 1 to {MAX_RESULTS}")
        fits = self._budget(max_tokens)
        answer = self.kb.search(query, limit, where=where, reranker=self.reranker, **options)
        entries = [_entry(hit) for hit in answer.hits]
        notes = list(answer.notes) if entries else [*answer.notes, _why_nothing(where)]
        head: dict[str, Any] = {"note": "; ".join(notes)[:TITLE]} if notes else {}
        if answer.confidence is not None:
            head["confidence"] = round(answer.confidence, 2)  # that an answer is among them
        if not entries:
            return self._checked(fits, {"results": [], **head})
        for kept in range(len(entries), 0, -1):
            texts = [len(entry["text"]) for entry in entries[:kept]]

            def made(room: int, kept: int = kept) -> dict[str, Any]:
                return {**_results(entries, kept, room), **head}

            room = _most(max(texts), lambda room: fits(made(room)))
            if room is not None and (room >= min(SHORTEST, max(texts)) or kept == 1):
                return _written(made(room))
        return self._checked(fits, {"results": [], "cut": f"{len(entries)} results do not fit"})

    def fetch(
        self,
        id: str,
        start: int | None = None,
        end: int | None = None,
        page: int | None = None,
        max_tokens: int | None = None,
    ) -> str:
        """Return a document, or some of its characters, or a page, and where the rest begins."""
        fits = self._budget(max_tokens)
        one = self.kb.store.fetch([id]).get(id)
        if one is None:
            raise InputError(
                f"id is {id!r:.200}, which is no document here; expected one that search returned"
            )
        left, right = _span(one, start, end, page)
        head = {"id": one.id, "title": one.title[:TITLE], "length": len(one.text)}
        told = {**head, "metadata": dict(one.metadata)}
        roomy = fits({**told, "text": "x" * (len(_written(told)))})  # at most half of an answer
        shown, cut = (told, []) if roomy else (head, ["metadata"])

        def made(room: int) -> dict[str, Any]:
            return _part(one, shown, left, right, room, cut)

        room = _most(right - left, lambda room: fits(made(room)))
        if room is None:
            return self._checked(fits, {"cut": "the id and title alone do not fit"})
        return _written(made(room))

    def about(self) -> str:
        """Return how many documents there are, and which fields they may be filtered by."""
        base = self.kb
        fields = sorted({name for one in base.store.sample(50) for name in one.metadata})
        return _written({"documents": base.store.count(), "fields": fields})

    def _budget(self, asked: int | None) -> Fits:
        wanted = min(DEFAULT_TOKENS, self.most) if asked is None else asked
        if not MIN_TOKENS <= wanted <= self.most:
            raise InputError(f"max_tokens is {wanted}, expected {MIN_TOKENS} to {self.most}")
        tokenizer = self.kb.encoder.tokenizer

        def fits(answer: Mapping[str, Any]) -> bool:
            text = _written(answer)
            if len(text) > wanted * PER_TOKEN:
                return False
            return int(tokenizer.count([text])[0]) <= wanted

        return fits

    @staticmethod
    def _checked(fits: Fits, answer: dict[str, Any]) -> str:
        if fits(answer):
            return _written(answer)
        raise InputError("max_tokens is too small for any answer; expected more")


def _why_nothing(where: Mapping[str, Any] | None) -> str:
    return "no document fits the filter" if where else "nothing was found"


def _entry(hit: "SearchHit") -> dict[str, Any]:
    entry: dict[str, Any] = {"id": hit.id, "title": hit.title[:TITLE]}
    if hit.passage.heading and hit.passage.heading != hit.title:
        entry["heading"] = hit.passage.heading[:TITLE]
    if isinstance(hit.metadata.get("url"), str):
        entry["url"] = hit.metadata["url"]
    if hit.confidence is not None:
        entry["confidence"] = round(hit.confidence, 2)
    if hit.duplicates:
        entry["nearly_the_same"] = list(hit.duplicates)
    found = {"characters": [hit.passage.start, hit.passage.end], "text": hit.passage.text}
    return {**entry, **found}


def _results(entries: Sequence[dict[str, Any]], kept: int, room: int) -> dict[str, Any]:
    """Return the first results, each passage cut to `room` characters, and say what was cut."""
    shown = [{**entry, "text": _cut(entry["text"], room)} for entry in entries[:kept]]
    shortened = sum(len(entry["text"]) > room for entry in entries[:kept])
    notes = []
    if kept < len(entries):
        notes.append(f"{len(entries) - kept} of {len(entries)} results left out")
    if shortened:
        notes.append(f"{shortened} passages shortened (fetch reads their characters)")
    answer: dict[str, Any] = {"results": shown}
    return {**answer, "cut": "; ".join(notes)} if notes else answer


def _part(
    one: StoredDocument,
    head: Mapping[str, Any],
    left: int,
    right: int,
    room: int,
    cut: Sequence[str],
) -> dict[str, Any]:
    """Return a part of a document, and where to go on."""
    text = one.text[left : min(right, left + room)]
    if left + room < right:
        text = text[: _end_of_words(text)]
    end = left + len(text)
    answer = {**head, "characters": [left, end], "text": text}
    notes = [f"{name} left out" for name in cut]
    if end < right:
        notes.append(f"{right - end} characters left out: go on with start={end}")
        answer["next"] = end
    return {**answer, "cut": "; ".join(notes)} if notes else answer


def _span(
    one: StoredDocument, start: int | None, end: int | None, page: int | None
) -> tuple[int, int]:
    """Return which characters are asked for."""
    whole = len(one.text)
    if page is not None:
        if start is not None or end is not None:
            raise InputError(f"page is {page} beside start or end: expected one way to say where")
        return _page(one, page)
    left, right = start or 0, whole if end is None else min(end, whole)
    if not 0 <= left <= right or left >= max(1, whole):
        raise InputError(
            f"start is {start} and end {end}, expected 0 <= start <= end; the document has "
            f"{whole} characters"
        )
    return left, right


def _page(one: StoredDocument, page: int) -> tuple[int, int]:
    titles = {section.title: number for number, section in enumerate(one.sections)}
    number = titles.get(f"{PAGE}{page}")
    if number is None:
        pages = [title.removeprefix(PAGE) for title in titles if title.startswith(PAGE)]
        has = f"has text on pages {', '.join(pages)[:200]}" if pages else "has no pages: use start"
        raise InputError(f"page is {page}, but the document {has}")
    following = one.sections[number + 1 : number + 2]
    return one.sections[number].start, following[0].start if following else len(one.text)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: _end_of_words(text[:room])] + " …"


def _end_of_words(text: str) -> int:
    """Return where the last whole word of a text ends, if that keeps most of it."""
    place = max(text.rfind(" "), text.rfind("\n"))
    return place if place > len(text) // 2 else len(text)


def _most(highest: int, good: Callable[[int], bool]) -> int | None:
    """Return the most characters that are good, None if not even none are.

    A tokenizer may need fewer tokens for a longer text, so the search is nearly right only; what
    it returns has been tried.
    """
    if good(highest):
        return highest
    best, low, high = None, 0, highest
    while low <= high:
        middle = (low + high) // 2
        if good(middle):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def _written(answer: Mapping[str, Any]) -> str:
    text = json.dumps(answer, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()  # half a character has no UTF-8
