"""The search page in a headless Chromium, against whole servers of a hostile collection."""

import contextlib
import json
import subprocess
import sys

import pytest

from opengte import Encoder
from opengte.search.kb import KnowledgeBase
from opengte.serve.auth.keys import KeyFile
from tests.support.browser import wait_until
from tests.support.serve_process import server

ATTACK = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
EVIL_ID = f"evil\" onmouseover='window.pwned=1' {ATTACK} #&?%2e"
WIDTHS = (390, 1280)
TEXTS = {
    "copy": (
        "How do I copy a file?",
        "# How do I copy a file?\n\nThe shutil module has a function "
        "that copies files.\nIts lines were\nbroken to fit.\n\n    code stays\n      as it is",
    ),
    "float": ("Floating point", "Decimal fractions have no exact binary form. Sums are rounded."),
    "cat": ("Cats", "A kitten sleeps on the warm window sill. The cat purrs while it sleeps."),
    "astral": (
        "Emoji",
        "\U0001f600\U0001f469‍\U0001f680 pandas \U0001f600 eat bamboo \U0001f43c every day",
    ),
    EVIL_ID: (ATTACK, f"Injected markup: {ATTACK} [x](javascript:window.pwned=1) `</script>` ends"),
}


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    made = KnowledgeBase.create(
        tmp_path_factory.mktemp("page") / "kb", Encoder.load("minilm", threads=1)
    )
    made.add(
        [text for _, text in TEXTS.values()],
        list(TEXTS),
        titles=[title for title, _ in TEXTS.values()],
        metadata=[
            {"lang": "en", "year": 2001, "path": "docs/a/b/c/d.md", "format": "markdown"},
            {"lang": "en", "year": 2002},
            {"lang": "de", "year": 2003, "long": "x" * 300},
            {"lang": "de", "year": 2004},
            {"lang": ATTACK, ATTACK: "value", "year": 2005, "path": ATTACK},
        ],
    )
    made.add(
        [
            f"Filler text number {n} about gardening, plants and soil of kind {n % 7}."
            for n in range(25)
        ],
        [f"filler/{n}" for n in range(25)],
        titles=[f"Garden {n}" for n in range(25)],
        metadata=[{"lang": "fr", "year": 2006 + n} for n in range(25)],
    )
    return made


@contextlib.contextmanager
def ui(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", "from opengte.cli import main; main()", "ui", "--port", "0"]
        + ["--threads", "1", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stderr.readline().split()[0]
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


@pytest.fixture(scope="module")
def url(kb):
    with ui(kb.place) as address:
        yield address


def start(opened, url, **options):
    page = opened(url, **options)
    page.wait_for_selector(".topics li")
    return page


def ask(page, text):
    page.fill("#query", text)
    wait_until(page, f"document.title.startsWith({json.dumps(text)})")
    wait_until(page, "!document.querySelector('#search-form').classList.contains('busy')")
    return titles(page)


def titles(page):
    return page.evaluate(
        "[...document.querySelectorAll('#results h3 a')].map((e) => e.textContent)"
    )


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.className")


# --- searching -------------------------------------------------------------------------------


def test_searching_as_one_types(opened, url):
    page = start(opened, url)
    assert focused(page) == "query"
    assert "30 documents" in page.inner_text("#outcome")
    page.keyboard.type("a kitten on the window", delay=20)
    page.wait_for_selector(".result")
    wait_until(page, "document.querySelector('#results h3 a')?.textContent === 'Cats'")
    wait_until(
        page, "/^10 results in \\d+ ms$/.test(document.querySelector('#outcome').textContent)"
    )
    assert page.get_attribute("#outcome", "aria-live") == "polite"
    marks = page.evaluate(
        "[...document.querySelector('.result').querySelectorAll('mark')].map((e) => e.textContent)"
    )
    assert set(marks) == {"kitten", "window"}
    page.fill("#query", "")
    page.wait_for_selector(".topics li")
    assert titles(page) == []


def test_late_answers_are_dropped(opened, url):
    from playwright.sync_api import Error

    page = start(opened, url)
    asked = []

    def slowly(route):
        query = json.loads(route.request.post_data)["query"]
        asked.append(query)
        if query == "kitten":
            page.wait_for_timeout(400)
        with contextlib.suppress(Error):  # it was cancelled
            route.continue_()

    page.route("**/search", slowly)
    page.fill("#query", "kitten")
    page.wait_for_timeout(200)
    page.fill("#query", "floating point decimal")
    page.wait_for_selector(".result")
    page.wait_for_timeout(700)
    assert titles(page)[0] == "Floating point"
    assert asked[-1] == "floating point decimal"


def test_typing_asks_once_after_a_pause(opened, url):
    page = start(opened, url)
    asked = []
    page.on(
        "request",
        lambda request: asked.append(request.url) if request.url.endswith("/search") else None,
    )
    page.keyboard.type("floating point", delay=10)
    page.wait_for_selector(".result")
    page.wait_for_timeout(400)
    assert len(asked) <= 3


def test_ranks_and_scores_on_demand(opened, url):
    page = start(opened, url)
    ask(page, "decimal fractions")
    first = page.query_selector(".result .why")
    assert first.get_attribute("open") is None
    assert "Found by meaning 1st, words 1st" in first.inner_text()
    first.query_selector("summary").click()
    rows = first.query_selector_all("tbody tr")
    shown = [row.inner_text().split("\t") for row in rows]
    assert [row[:2] for row in shown[:3]] == [
        ["by meaning", "1"],
        ["by words", "1"],
        ["all joined", "1"],
    ]
    assert 0 < float(shown[0][2]) <= 1
    page.click("#options summary")
    page.check("#scores")
    assert page.evaluate("[...document.querySelectorAll('.why')].every((e) => e.open)")


def test_more_results(opened, url):
    page = start(opened, url)
    assert len(ask(page, "gardening plants")) == 10
    page.click("#more")
    wait_until(page, "document.querySelectorAll('.result').length === 20")
    assert focused(page) == "result-11"


def test_filters(opened, url):
    page = start(opened, url)
    legends = page.evaluate(
        "[...document.querySelectorAll('.facet legend')].map((e) => e.textContent)"
    )
    assert legends == ["lang", "year"]
    ask(page, "the cat sleeps")
    page.click(".facet label:has-text('de')")
    wait_until(page, "document.querySelectorAll('.result').length === 2")
    assert page.inner_text("#filter-count") == "1"
    assert sorted(titles(page)) == ["Cats", "Emoji"]
    assert page.evaluate("document.activeElement.type") == "checkbox"  # though the list is new
    page.fill(".range input >> nth=0", "2004")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    wait_until(page, "document.querySelectorAll('.result').length === 1")
    page.reload()
    page.wait_for_selector(".result")
    assert titles(page) == ["Emoji"]  # the address kept all of it
    assert page.input_value("#query") == "the cat sleeps"
    page.click("#clear")
    wait_until(page, "document.querySelectorAll('.result').length === 10")


def test_nothing_found_and_refusals(opened, url):
    page = start(opened, url, allowed=("400", "503", "ERR_FAILED"))
    page.click(".facet label:has-text('de')")
    page.click("#options summary")
    page.select_option("#way", "lexical")
    ask(page, "nosuchword")
    assert "Nothing was found. Fewer filters may help." in page.inner_text("#message")
    ask(page, "x" * 9000)
    assert "1 to 8000 characters" in page.inner_text("#message .error")
    page.route("**/search", lambda route: route.abort())
    ask(page, "anything")
    assert "does not answer" in page.inner_text("#message")
    page.unroute("**/search")
    assert ask(page, "cat") == ["Cats"]
    assert page.query_selector("#message .error") is None


def test_the_confidence_of_an_answer_is_shown_where_there_is_one(opened, url):
    page = start(opened, url)

    def add(value):
        def answer(route):
            found = route.fetch().json()
            found["confidence"] = value
            found["hits"][0]["confidence"] = value
            route.fulfill(json=found)

        return answer

    page.route("**/search", add(0.91))
    ask(page, "cat")
    assert "91 %" in page.inner_text("#message")
    assert "confidence 91 %" in page.inner_text(".result >> nth=0")
    page.unroute("**/search")
    page.route("**/search", add(0.08))
    ask(page, "quantum")
    assert "Probably nothing here answers that" in page.inner_text("#message .notice")


# --- documents -------------------------------------------------------------------------------


def test_a_document_with_its_passage(opened, url):
    page = start(opened, url)
    ask(page, "which function copies files")
    page.click("#results h3 a >> nth=0")
    page.wait_for_selector(".document")
    assert page.inner_text("#reader-title") == "How do I copy a file?"
    assert "copies files" in page.inner_text(
        ".passage >> nth=-1"
    ) or "copies files" in page.inner_text(".document")
    assert page.query_selector(".passage mark") is not None
    whole = page.evaluate("document.querySelector('.document').textContent")
    assert whole == TEXTS["copy"][1]
    assert "its lines were broken to fit." in page.inner_text(".document").lower()
    assert "    code stays\n      as it is" in page.evaluate(
        "document.querySelector('.block.lines').textContent"
    )
    page.click("#tab-details")
    assert "docs/a/b/c/d.md" in page.inner_text("#panel-details")
    page.keyboard.press("Escape")
    assert page.is_hidden("#reader")
    assert focused(page) == "result-1"


def test_characters_beyond_the_first_plane_move_no_mark(opened, url):
    page = start(opened, url)
    assert ask(page, "bamboo")[0] == "Emoji"
    mark = "[...document.querySelectorAll('%s mark')].map((e) => e.textContent)"
    assert page.evaluate(mark % ".result:first-child") == ["bamboo"]
    page.click("#results h3 a >> nth=0")
    page.wait_for_selector(".document")
    assert page.evaluate(mark % ".document") == ["bamboo"]
    assert page.evaluate("document.querySelector('.document').textContent") == TEXTS["astral"][1]


def test_documents_near_one(opened, url):
    page = start(opened, url)
    ask(page, "Garden 3")
    page.click("#results h3 a >> nth=0")
    page.wait_for_selector(".document")
    page.click("#tab-near")
    page.wait_for_selector(".near li")
    near = page.evaluate("[...document.querySelectorAll('.near button')].map((e) => e.textContent)")
    assert len(near) == 8 and all(title.startswith("Garden") for title in near)
    page.click(".near button >> nth=0")
    wait_until(
        page, f"document.querySelector('#reader-title').textContent === {json.dumps(near[0])}"
    )
    page.go_back()
    wait_until(
        page, f"document.querySelector('#reader-title').textContent !== {json.dumps(near[0])}"
    )


def test_the_address_opens_what_it_names(opened, url):
    page = opened(f"{url}/#q=kitten&doc=float&view=map")
    page.wait_for_selector(".document")
    assert page.inner_text("#reader-title") == "Floating point"
    assert page.input_value("#query") == "kitten"
    assert page.is_visible("#canvas")
    missing = opened(f"{url}/#doc=nothing&where=%7Bbroken", allowed=("404",))
    missing.wait_for_selector("#reader .error")
    assert "there is no document 'nothing'" in missing.inner_text("#reader")


# --- hostile collections ---------------------------------------------------------------------


def test_hostile_documents_stay_text(opened, url):
    page = start(opened, url)
    found = ask(page, f"injected markup {ATTACK}")
    assert ATTACK in found
    page.evaluate("document.querySelectorAll('.why').forEach((e) => { e.open = true; })")
    page.hover(".result:has-text('onerror') h3 a")
    page.click(".result:has-text('onerror') h3 a")
    page.wait_for_selector(".document")
    assert page.evaluate("document.querySelector('.document').textContent") == TEXTS[EVIL_ID][1]
    page.click("#tab-details")
    page.click("#tab-near")
    page.wait_for_selector(".near li")
    page.click("#show-map")
    wait_until(page, "document.querySelectorAll('.group').length > 0")
    page.evaluate("document.querySelectorAll('.group').forEach((e) => { e.open = true; })")
    page.wait_for_timeout(200)
    page.fill("#query", ATTACK)
    page.wait_for_timeout(600)
    assert page.evaluate("window.pwned") is None
    strange = "img, script, iframe, a[href^='javascript'], [onerror]".split(", ")
    strange = ", ".join(f"#layout {one}" for one in strange)
    assert page.query_selector(strange) is None
    assert page.evaluate(
        """[...document.querySelectorAll('*')].every(
          (e) => ![...e.attributes].some((a) => a.name.startsWith('on')))"""
    )


def test_hostile_addresses(opened, url):
    evil = "%3Cimg%20src%3Dx%20onerror%3D%22window.pwned%3D1%22%3E"
    page = opened(
        f"{url}/#q={evil}&doc={evil}&kb={evil}&where=%7B%22{evil}%22%3A%22{evil}%22%7D",
        allowed=("404",),
    )
    page.wait_for_selector("#reader .error")
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert page.query_selector("#layout img") is None


def test_hostile_answers(opened, url):
    page = start(opened, url, allowed=("418",))
    page.route(
        "**/search",
        lambda route: route.fulfill(
            status=418, json={"error": {"message": f"no {ATTACK}"}}, headers={"x-y": "z"}
        ),
    )
    page.fill("#query", "x")
    page.wait_for_selector("#message .error")
    assert page.inner_text("#message") == f"no {ATTACK}"
    assert page.evaluate("window.pwned") is None


def test_nothing_is_loaded_from_elsewhere(opened, url):
    asked = []
    page = opened("about:blank")
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector(".topics li")
    ask(page, "cat")
    page.click("#show-map")
    page.wait_for_timeout(300)
    assert asked and all(one.startswith(url) for one in asked)


# --- keyboard and readers --------------------------------------------------------------------


def test_by_keyboard_alone(opened, url):
    page = start(opened, url)
    page.keyboard.type("kitten")
    page.wait_for_selector(".result")
    page.keyboard.press("ArrowDown")
    assert focused(page) == "result-1"
    page.keyboard.press("ArrowDown")
    assert focused(page) == "result-2"
    page.keyboard.press("End")
    assert focused(page) == "result-10"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector(".document")
    wait_until(page, "document.activeElement.id === 'reader'")
    page.keyboard.press("Tab")
    assert "close" in focused(page)
    page.keyboard.press("Tab")
    assert focused(page) == "tab-text"
    page.keyboard.press("ArrowRight")
    assert focused(page) == "tab-near"
    page.wait_for_selector(".near li")
    page.keyboard.press("Escape")
    assert focused(page) == "result-1"
    page.keyboard.press("ArrowUp")
    assert focused(page) == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("/")
    assert focused(page) == "query"
    assert page.input_value("#query") == "kitten"


def test_the_skip_link_goes_to_the_search_box_and_keeps_the_question(opened, url):
    page = start(opened, url)
    ask(page, "kitten")
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    assert focused(page) == "query"
    page.wait_for_timeout(200)
    assert page.input_value("#query") == "kitten"


@pytest.mark.parametrize("view", ["results", "map"])
def test_everything_has_a_name(opened, url, view):
    page = start(opened, url)
    ask(page, "kitten")
    page.click(f"#show-{view}")
    page.click("#options summary")
    if view == "results":
        page.click("#results h3 a >> nth=0")
        page.wait_for_selector(".document")
    else:
        page.wait_for_selector(".group")
        page.click(".group summary >> nth=0")
    nameless = page.evaluate("""() => [...document.querySelectorAll(
        'input, select, textarea, button, img, canvas, a, [role=group], section')]
      .filter((e) => e.checkVisibility() && !(e.labels?.length || e.textContent.trim()
        || e.hasAttribute('alt') || e.getAttribute('aria-label')
        || document.getElementById(e.getAttribute('aria-labelledby'))))
      .map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.evaluate("document.querySelectorAll('main, [role=search], aside, nav').length") >= 4
    named = page.evaluate("""() => ['aria-labelledby', 'aria-controls', 'aria-describedby']
      .flatMap((name) => [...document.querySelectorAll(`[${name}]`)]
        .map((e) => e.getAttribute(name)))
      .filter((id) => !document.getElementById(id))""")
    assert named == []


def test_focus_is_seen(opened, url):
    page = start(opened, url)
    ask(page, "kitten")
    for _ in range(25):
        page.keyboard.press("Tab")
        outline = page.evaluate("""() => { const s = getComputedStyle(document.activeElement);
          return document.activeElement === document.body || parseFloat(s.outlineWidth) > 0; }""")
        assert outline, page.evaluate("document.activeElement.outerHTML.slice(0, 200)")


def contrast(a, b):
    def luminance(colour):
        parts = [value / 255 for value in colour[:3]]
        r, g, blue = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * r + 0.7152 * g + 0.0722 * blue

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_differ_enough(opened, url, scheme):
    page = start(opened, url, color_scheme=scheme)
    hexes = page.evaluate("""() => { const s = getComputedStyle(document.documentElement);
      const names = `ink soft main bad warn page card tint mark on-mark passage on-main`.split(' ');
      return Object.fromEntries(names.map((n) => [n, s.getPropertyValue('--' + n).trim()])); }""")

    def colour(name):
        text = hexes[name].lstrip("#")
        text = "".join(c * 2 for c in text) if len(text) == 3 else text
        return [int(text[i : i + 2], 16) for i in (0, 2, 4)]

    pairs = [(a, b) for a in ("ink", "soft", "main", "bad") for b in ("page", "card")]
    pairs += [("soft", "tint"), ("ink", "tint"), ("on-mark", "mark"), ("ink", "passage")]
    for a, b in [*pairs, ("on-main", "main")]:
        assert contrast(colour(a), colour(b)) >= 4.5, (a, b)


# --- the map ---------------------------------------------------------------------------------


def test_the_map_and_its_list(opened, url):
    page = start(opened, url, allowed=("willReadFrequently",))  # as this test does
    page.click("#show-map")
    page.wait_for_selector(".group")
    assert "30 documents" in page.inner_text("#map-note")
    assert "30 documents" in page.get_attribute("#canvas", "aria-label")
    drawn = """() => { const c = document.querySelector('#canvas');
      const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let n = 0, sum = 0;
      for (let i = 3; i < d.length; i += 4) {
        if (d[i]) { n++; sum = (sum * 31 + i * d[i - 1]) % 1e9; }
      }
      return [n, sum]; }"""
    page.wait_for_timeout(300)
    first = page.evaluate(drawn)
    assert first[0] > 300
    page.evaluate("document.querySelectorAll('.group').forEach((e) => { e.open = true; })")
    wait_until(page, "document.querySelectorAll('.group li button').length === 30")
    page.focus("#canvas")
    for key in ("+", "+", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        page.wait_for_timeout(60)
    assert page.evaluate(drawn) != first
    page.keyboard.press("0")
    page.mouse.move(5, 5)
    wait_until(page, f"({drawn})()[0] > 300")
    page.click("#zoom-in")
    page.click("#zoom-reset")
    page.click(".group li button >> nth=0")
    page.wait_for_selector(".document")


def test_pointing_at_documents_of_the_map(opened, url):
    page = start(opened, url)
    page.click("#show-map")
    page.wait_for_selector(".group")
    page.wait_for_timeout(300)
    box = page.query_selector("#canvas").bounding_box()
    data = page.evaluate("fetch('map', {method: 'POST', body: '{}'}).then((a) => a.json())")
    at = data["ids"].index("cat")
    x = box["width"] / 2 + data["x"][at] * 0.46 * box["width"]
    y = box["height"] / 2 - data["y"][at] * 0.44 * min(box["width"], box["height"])
    page.mouse.move(box["x"] + x, box["y"] + y)
    wait_until(page, "!document.querySelector('#tip').hidden")
    assert "Cats" in page.inner_text("#tip")
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_selector(".document")
    assert page.inner_text("#reader-title") == "Cats"
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.wheel(0, -400)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 230)
    page.mouse.up()
    assert page.is_hidden("#reader")  # dragging opens nothing


def test_the_map_follows_the_filters(opened, url):
    page = start(opened, url)
    page.click("#show-map")
    page.wait_for_selector(".group")
    page.click(".facet label:has-text('de')")
    wait_until(
        page, "document.querySelector('#map-note').textContent.includes('2 fit the filters')"
    )


# --- looks -----------------------------------------------------------------------------------


def test_on_a_phone_a_document_covers_the_page(opened, url):
    page = start(opened, url, width=390)
    ask(page, "kitten")
    page.click("#results h3 a >> nth=0")
    page.wait_for_selector(".document")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            """document.activeElement === document.body
              || !!document.activeElement.closest('#reader')"""
        )
    assert page.get_attribute("#reader", "role") == "dialog"
    page.keyboard.press("Escape")
    page.click("#results h3 a >> nth=0")  # can be reached again


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_follows_the_theme(opened, url, width):
    colours = []
    for scheme in ("light", "dark"):
        page = start(opened, url, width=width, color_scheme=scheme)
        wide = "document.documentElement.scrollWidth"
        assert page.evaluate(wide) <= width
        ask(page, "w" * 200 + " injected markup")
        assert page.evaluate(wide) <= width
        page.click("#options summary")
        assert page.evaluate(wide) <= width
        page.keyboard.press("Escape")
        page.click("#results h3 a >> nth=0")
        page.wait_for_selector(".document")
        for tab in ("details", "near", "text"):
            page.click(f"#tab-{tab}")
            assert page.evaluate(wide) <= width
            box = page.query_selector("#reader")
            assert box.evaluate("(e) => e.scrollWidth - e.clientWidth") <= 0
        page.keyboard.press("Escape")
        page.click("#show-map")
        page.wait_for_selector(".group")
        assert page.evaluate(wide) <= width
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    page.click("#theme")
    page.click("#theme")  # system, light, dark
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    wait_until(page, "document.documentElement.dataset.theme === 'dark'")


# --- beside the embedding server -------------------------------------------------------------


def test_keys_and_what_they_see(opened, kb, tmp_path):
    _, secret = KeyFile(tmp_path).create("german", where=("lang=de",))
    env = {"OPENGTE_STATE_DIR": str(tmp_path)}
    with server("--kb", f"mine={kb.place}", "--threads", "1", env=env) as one:
        page = opened(one.url + "/kb", allowed=("401",))
        page.wait_for_selector("#key-form:not([hidden])")
        assert titles(page) == [] and page.query_selector(".topics li") is None
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        wait_until(
            page, "document.querySelector('#key-note').textContent.includes('does not know')"
        )
        page.fill("#key", secret)
        page.press("#key", "Enter")
        page.wait_for_selector(".topics li")
        assert "2 documents" in page.inner_text("#outcome")
        assert sorted(ask(page, "plants and cats")) == ["Cats", "Emoji"]
        page.click("#links a:has-text('API')")
        page.wait_for_selector(".operation")
        assert page.query_selector("summary code:has-text('/kb/search')") is not None
        assert page.get_attribute(".bar nav a:has-text('Search')", "href") == "kb/"


def test_several_knowledge_bases(opened, kb, tmp_path):
    other = KnowledgeBase.create(tmp_path / "other", Encoder.load("minilm", threads=1))
    other.add(["A lonely text about trains."], ["t"], titles=["Trains"])
    with ui(kb.place, f"rail={other.place}") as url:
        page = start(opened, url)
        page.select_option("#kb", "rail")
        wait_until(page, "document.querySelector('#outcome').textContent === '1 document'")
        assert ask(page, "kitten") == ["Trains"]
        page.reload()
        page.wait_for_selector(".result")
        assert titles(page) == ["Trains"]
        assert page.input_value("#kb") == "rail"


def test_files_that_are_not_indexed_are_listed(opened, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("A cat sleeps.")
    for name in ("b.jpg", f"{'long' * 40}.jpg", "broken.json"):
        (tmp_path / "files" / name).write_text("broken")
    base = KnowledgeBase.create(tmp_path / "kb", Encoder.load("minilm", threads=1))
    base.index([tmp_path / "files"])
    with ui(base.place) as address:
        page = opened(address, width=390)
        page.wait_for_selector("#problems > summary")
        page.click("#problems > summary")
        page.click("#problems .problem:last-of-type > summary")
        assert "1 could not be read, 2 skipped" in page.inner_text("#problems > summary")
        assert "unknown format (.jpg)" in page.inner_text("#problems .problem:last-of-type")
        assert "b.jpg" in page.inner_text("#problems .problem:last-of-type li")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
