"""Which elements of a page are plainly not its content: menus, cookie banners, footers.

What a page declares (`nav`, roles) or names (`class="sidebar"`) counts where the measures of the
element agree: its share of links, its length. Lists of links without a name are menus only outside
the element that has the prose. Everything else is content.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opengte.search.parse.html_text import HEADINGS, UNSEEN

MENU_ROLES = frozenset({"navigation", "menu", "menubar", "search"})
BLOCKS = frozenset(
    "address aside center dl div footer form header menu ol p table td tr ul".split()
)
SMALL = frozenset("a button span sup".split())
PARTS = ("main", "article", "section", "table", "blockquote", "figure", "li")
STEPS = frozenset("contents first home index last next prev previous start top up".split())
PROSE = 400  # characters outside links from which nothing is taken for a menu
FOOTER = 1000  # characters outside links from which a footer says something
BANNER = 6000  # characters that a cookie banner may have
LABEL = 120  # characters that a tool such as "Edit this page" may have

_WORDS = {
    "menu": "nav|navbar|navbox|navheader|navfooter|navigation|navpath|navlinks|navlist|topnav|"
    "subnav|bottomnav|sidenav|menu|menubar|breadcrumbs?|crumbs?|pagination|pager|sidebar|"
    "sphinxsidebar|sitemap|catlinks|related|recommended|trending|popular|teasers?|sponsored|outbrain|taboola",
    "contents": "toc|tableofcontents|table of contents|contents|outline|on this page",
    "footer": "footer|printfooter",
    "banner": r"(?:cookies?|consent|gdpr|privacy)(?: \w+)*? (?:accept|alert|banner|bar|consent|"
    "dialog|law|message|modal|notice|overlay|popup|sdk|warning)|onetrust|cookiebot|cookieconsent",
    "tools": "editsection|edit this page|last updated|skip|skiplink|share|sharing|social|"
    "newsletter|subscribe|advert|ads|promo|searchbox|noprint",
}
_NAMED = re.compile("|".join(rf"\b(?P<{kind}>{words})\b" for kind, words in _WORDS.items()))
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+")
_JUMP = re.compile(r"\s*(?:skip|jump) to\b", re.I)
_SEPARATORS = " \t\r\n|/\\,:;»«›‹·•→←()[]-–—"
_ASKS = re.compile("cookie|consent|privacy", re.I)


@dataclass(slots=True)
class _Measure:
    """What an element holds, without what was found to be boilerplate."""

    elements: int = 1  # all of them
    size: int = 0  # characters
    linked: int = 0  # characters in links
    links: int = 0
    local: int = 0  # links into the same page
    steps: int = 0  # links to the next page, the previous one
    controls: int = 0  # buttons
    headings: int = 0
    mains: int = 0  # declared main parts
    menus: int = 0  # parts that were left out

    def add(self, part: "_Measure") -> None:
        self.size += part.size
        self.linked += part.linked
        self.links += part.links
        self.local += part.local
        self.steps += part.steps
        self.controls += part.controls
        self.headings += part.headings
        self.mains += part.mains
        self.menus += part.menus


def find_boilerplate(body: Any) -> set[Any]:
    """Return the outermost elements that are plainly not content; none if that were everything."""
    elements = list(body.iter("*"))
    measures, dropped = _measure(elements)
    total = measures[0]
    content, declared = _content(elements, measures)
    found, left, number = set(), total.size, 1
    while number < len(elements):
        element, measure = elements[number], measures[number]
        outside = number + measure.elements <= content.start or number >= content.stop
        if number in dropped or (outside and _is_menu(element, measure, total, declared)):
            found.add(element)
            left -= 0 if number in dropped else measure.size
            number += measure.elements
        else:
            number += 1
    return found if left > 0 else set()


def _measure(elements: list[Any]) -> tuple[list[_Measure], set[int]]:
    """Measure every element, from the innermost; what is boilerplate does not count further out."""
    places = {element: number for number, element in enumerate(elements)}
    measures = [_Measure() for _ in elements]
    dropped = set()
    for number in range(len(elements) - 1, 0, -1):
        element, measure = elements[number], measures[number]
        around = measures[places[element.getparent()]]
        around.elements += measure.elements
        around.size += len((element.tail or "").strip(_SEPARATORS))
        if element.tag in UNSEEN:
            continue
        measure.size += len((element.text or "").strip(_SEPARATORS))
        if element.tag == "a":
            _measure_link(element, measure)
        measure.controls += element.tag == "button"
        measure.headings += element.tag in HEADINGS
        measure.mains += _is_main(element)
        if measure.size and not measure.mains and _is_boilerplate(element, measure):
            dropped.add(number)
            around.menus += 1
        else:
            around.add(measure)
    measures[0].size += len((elements[0].text or "").strip(_SEPARATORS))
    return measures, dropped


def _measure_link(link: Any, measure: _Measure) -> None:
    target = link.get("href")
    if target is None:
        return
    measure.linked, measure.links = measure.size, 1
    measure.local = int(target.startswith("#"))
    leads = (link.get("rel") or "").lower().split()
    measure.steps = int(link.get("accesskey") is not None or not STEPS.isdisjoint(leads))


def _content(elements: list[Any], measures: list[_Measure]) -> tuple[range, bool]:
    """Return the elements of the main part, and whether the page declares it.

    It is `main`, or the one article with the title, or else the element with the prose.
    """
    place = 0
    for is_declared in (_is_main, _is_titled):
        last = place + measures[place].elements
        found = [
            number
            for number in range(place + 1, last)
            if is_declared(elements[number]) and measures[number].size > 0.3 * measures[place].size
        ]
        if len(found) == 1:
            (place,) = found
    declared = place > 0
    place = place or _prose(measures)
    return range(place, place + measures[place].elements), declared


def _is_titled(element: Any) -> bool:
    return element.tag == "article" and next(element.iter("h1"), None) is not None


def _is_main(element: Any) -> bool:
    return bool(element.tag == "main" or element.get("role") == "main")


def _prose(measures: list[_Measure]) -> int:
    """Return the innermost element with nearly all text outside links, and with the headings."""
    whole, place, child = measures[0], 0, 1
    while child < place + measures[place].elements:
        one = measures[child]
        prose = one.size - one.linked > 0.9 * (whole.size - whole.linked)
        if prose and one.elements > 2 and 2 * one.headings >= whole.headings:
            place = child
            child += 1
        else:
            child += one.elements
    return place


def _is_boilerplate(element: Any, measure: _Measure) -> bool:
    """Return whether an element is declared or named as what it also looks like."""
    tag, role = element.tag, element.get("role")
    plain = measure.size - measure.linked
    if tag == "nav" or role in MENU_ROLES:
        return plain < PROSE or plain < measure.linked
    if tag in HEADINGS:
        return False
    if tag == "a":
        if _JUMP.match(element.text or "") and measure.local:
            return True
    elif measure.steps and measure.steps == measure.links and measure.size < 3 * PROSE:
        return tag in BLOCKS and measure.linked > 0.3 * measure.size
    if (tag == "footer" or role == "contentinfo") and not _is_within(element):
        return plain < FOOTER
    if role in ("dialog", "alertdialog") and _asks_for_consent(element, measure):
        return True
    return (tag in BLOCKS or tag in SMALL) and _looks_named(element, measure)


def _looks_named(element: Any, measure: _Measure) -> bool:
    tag, size, plain = element.tag, measure.size, measure.size - measure.linked
    kind, word = _kind(element.get("class") or "")
    if not kind and tag in BLOCKS:
        kind, word = _kind(element.get("id") or "")
    if (
        not kind
        or (kind not in ("tools", "contents") and tag in SMALL)
        or _is_headed(element, word, plain)
    ):
        return False
    match kind:
        case "menu":
            if measure.menus and plain < LABEL:
                return True
            return measure.linked > (0.3 if plain < PROSE else 0.5) * size
        case "contents":
            local = measure.links > 1 and measure.local > 0.8 * measure.links
            label = not measure.links and measure.controls and size < LABEL
            return bool(label) or (local and measure.linked > 0.5 * size)
        case "footer":
            return (plain < FOOTER / 2 or plain < measure.linked) and not _is_within(element)
        case "banner":
            return _asks_for_consent(element, measure)
    return size < LABEL or measure.linked > 0.7 * size


@lru_cache(maxsize=4096)
def _kind(name: str) -> tuple[str, str]:
    """Return which kind of boilerplate a class or an id names, and the word that does."""
    found = _NAMED.search(_HUMP.sub(" ", name).lower()) if name else None
    return (found.lastgroup or "", found[0]) if found else ("", "")


def _is_headed(element: Any, word: str, plain: int) -> bool:
    """Return whether an element is a chapter about what its name says: its heading says so too."""
    first = next((child for child in element if child.tag in HEADINGS), None)
    title = "" if first is None else "".join(first.itertext())
    return word in title.lower() and word != "contents" and plain > len(title)


def _is_within(element: Any) -> bool:
    return next(element.iterancestors(*PARTS), None) is not None


def _asks_for_consent(element: Any, measure: _Measure) -> bool:
    if measure.size > BANNER or not (measure.controls or measure.links) or _is_within(element):
        return False
    return bool(_ASKS.search("".join(element.itertext())))


def _is_menu(element: Any, measure: _Measure, page: _Measure, declared: bool) -> bool:
    """Return whether an element outside the main part is a list of links, and not most of it."""
    plain = measure.size - measure.linked
    return (
        element.tag in BLOCKS - {"p"}
        and measure.links > 2
        and plain < measure.linked * (2 if declared else 0.2) + LABEL / 3
        and (declared or (plain < measure.linked and measure.size < 0.5 * page.size))
        and next(element.iter("h1"), None) is None
    )
