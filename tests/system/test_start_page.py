"""The start page and the API page in a headless Chromium, against whole servers."""

import re

import numpy as np
import pytest

from opengte import Encoder
from tests.support.browser import wait_until
from tests.support.serve_process import server

ATTACK = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def one():
    with server("--model", "minilm") as running:
        yield running


def start(opened, one, **options):
    page = opened(one.url, **options)
    page.wait_for_selector(".model .state.ready")
    return page


def compare(page, query, documents, block=False):
    page.fill("#query", query)
    page.fill("#documents", documents)
    if block:
        page.check("input[value=block]")
    page.click("#compare")
    page.wait_for_selector(".results tbody tr")
    return [
        [cell.inner_text() for cell in row.query_selector_all("td")]
        for row in page.query_selector_all(".results tbody tr")
    ]


def test_models_and_what_is_known_of_them(opened, one):
    page = start(opened, one)
    card = page.inner_text(".model")
    for part in ("minilm", "ready", "encoder", "384 numbers", "256 tokens", "22.7 M"):
        assert part in card
    page.click(".model summary")
    page.wait_for_timeout(1500)  # a poll later it is still open
    assert page.query_selector(".model details").get_attribute("open") is not None
    assert page.evaluate("document.querySelector('#model').value") == "minilm"


def test_similarities_are_the_librarys_and_best_is_first(opened, one):
    page = start(opened, one)
    texts = ["A kitten naps.", "Stocks fell on Tuesday.", "The cat sleeps on the sofa."]
    rows = compare(page, "a sleeping cat", "\n".join(texts))
    encoder = Encoder.load("minilm")
    wanted = encoder.similarity(encoder.encode(["a sleeping cat"]), encoder.encode(texts))[0]
    order = np.argsort(-wanted)
    assert [row[1].strip() for row in rows] == [texts[i] for i in order]
    assert [float(row[2]) for row in rows] == pytest.approx(wanted[order], abs=6e-4)
    counts = encoder.embed(texts).token_counts
    assert [int(row[3]) for row in rows] == [counts[i] for i in order]
    widths = page.evaluate("[...document.querySelectorAll('.fill')].map((e) => e.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 50


def test_truncation_is_shown(opened, one):
    page = start(opened, one)
    rows = compare(page, "words", "short\n" + "word " * 700)
    (cut,) = [row for row in rows if "cut" in row[3]]
    assert re.sub(r"\s+", " ", cut[3]) == "256 cut from 702"
    assert "1 cut to the model's longest input" in page.inner_text("#outcome")


def test_documents_between_blank_lines(opened, one):
    page = start(opened, one)
    rows = compare(page, "q", "one\nstill one\n \n\ntwo\n", block=True)
    assert sorted(row[1].strip() for row in rows) == ["one\nstill one", "two"]
    assert "2 documents" in page.inner_text("#document-count")


def test_pasted_html_stays_text(opened, one):
    page = start(opened, one)
    rows = compare(page, ATTACK, f"{ATTACK}\n<b>bold</b>\n&lt;&amp;\n\"'`${{1}}")
    shown = [row[1].strip() for row in rows]
    assert set(shown) == {ATTACK, "<b>bold</b>", "&lt;&amp;", "\"'`${1}"}
    assert page.query_selector(".results img, .results b, .results script") is None
    assert page.evaluate("window.pwned") is None


def test_an_error_of_the_server_is_shown_as_text(opened, one):
    page = start(opened, one, allowed=("404",))
    page.evaluate(
        "(name) => { const o = document.querySelector('#model option'); o.value = name; }", ATTACK
    )
    page.route(
        "**/v1/embeddings",
        lambda route: route.fulfill(
            status=404,
            content_type="application/json",
            body='{"error": {"message": "no model <img src=x onerror=window.pwned=1>"}}',
        ),
    )
    page.evaluate("document.querySelector('#model option').value = 'minilm'")
    page.click("#compare")
    page.wait_for_selector("#outcome .error")
    assert page.inner_text("#outcome") == "no model <img src=x onerror=window.pwned=1>"
    assert page.evaluate("window.pwned") is None


def test_nothing_to_compare(opened, one):
    page = start(opened, one)
    page.fill("#documents", "\n \n")
    page.click("#compare")
    page.wait_for_selector("#outcome .error")
    assert "at least one document" in page.inner_text("#outcome")


def test_charts_follow_the_load(opened, one):
    page = start(opened, one)
    one.embed([f"text number {i} of some words" for i in range(200)])
    label = "[...document.querySelectorAll('.chart svg')].map((e) => e.getAttribute('aria-label'))"
    wait_until(page, f"!/highest 0$/.test({label}[1])")
    labels = page.evaluate(label)
    assert [text.split(" in ")[0] for text in labels] == [
        "Queue",
        "Tokens",
        "Requests",
        "Latency",
        "Batch fill",
    ]
    assert all("last two minutes" in text for text in labels)
    drawn = page.evaluate(
        "[...document.querySelectorAll('.chart path.first')].map((e) => e.getAttribute('d'))"
    )
    assert all(drawn)
    page.click("text=The last ten seconds as a table")
    wait_until(page, "document.querySelectorAll('#load-table tbody tr').length >= 2")


def test_pausing(opened, one):
    page = start(opened, one)
    page.click("#pause")
    page.wait_for_timeout(300)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert asked == []
    page.click("#pause")
    page.wait_for_timeout(1500)
    assert any("page/state" in url for url in asked)


def test_by_keyboard_alone(opened, one):
    page = start(opened, one)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("Control+a")
    page.keyboard.type("typed")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".results tbody tr")


@pytest.mark.parametrize("path", ["", "/docs"])
def test_everything_has_a_name(opened, one, path):
    page = opened(one.url + path)
    page.wait_for_selector(".model, .operation")
    if path:
        page.evaluate("document.querySelectorAll('.operation').forEach((e) => { e.open = true; })")
        page.wait_for_timeout(500)
    nameless = page.evaluate("""() => [...document.querySelectorAll(
        'input, select, textarea, button, img, svg, a')]
      .filter((e) => !(e.labels?.length || e.textContent.trim() || e.hasAttribute('alt')
        || e.getAttribute('aria-label')))
      .map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.querySelectorAll('h1').length") == 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["", "/docs"])
def test_it_fits_and_follows_the_theme(opened, one, width, path):
    colours = []
    for scheme in ("light", "dark"):
        page = opened(one.url + path, width=width, color_scheme=scheme)
        page.wait_for_selector(".model .state.ready, .operation")
        if path:
            page.click(".operation >> nth=0")
            page.wait_for_selector(".operation .inside")
        else:
            compare(page, "q", "a " + "longword" * 40 + "\nb")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    page.click("#theme")
    page.click("#theme")  # system, light, dark
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_api_page_has_every_route_and_tries_them(opened, one):
    page = opened(one.url + "/docs")
    page.wait_for_selector(".operation")
    with one.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    wanted = sorted(path for path, methods in paths.items() for _ in methods)
    shown = page.evaluate(
        "[...document.querySelectorAll('.operation > summary code')].map((e) => e.textContent)"
    )
    assert sorted(shown) == wanted
    page.fill("#filter", "/v1/embeddings")
    visible = page.query_selector_all(".operation:not([hidden]) > summary code")
    assert all("/v1/embeddings" in code.inner_text() for code in visible if code.is_visible())
    operation = page.query_selector(".operation:not([hidden])")
    operation.query_selector("summary").click()
    page.wait_for_selector(".operation[open] form textarea")
    page.fill(".operation[open] textarea", '{"input": "it\'s text", "model": "minilm"}')
    line = page.inner_text(".operation[open] form > pre")
    assert line.startswith(f"curl '{one.url}/v1/embeddings'")
    assert """-d '{"input":"it'\\''s text","model":"minilm"}'""" in line
    page.click(".operation[open] button.main")
    page.wait_for_selector(".operation[open] form .status.ok")
    assert '"object": "list"' in page.inner_text(".operation[open] form [aria-live] pre")


def test_a_server_with_keys(opened):
    with server("--model", "minilm", env={"OPENGTE_API_KEY": "a-secret-of-this-test"}) as guarded:
        page = opened(guarded.url, allowed=("401", "ERR_CONNECTION_REFUSED"))
        page.wait_for_selector("#key-form:not([hidden])")
        assert page.query_selector(".model") is None  # a stranger sees no models
        assert page.inner_text("#models") == "Enter an API key above to see the models."
        assert page.evaluate("document.activeElement.id") == "key"
        page.click("#compare")
        assert "Enter an API key" in page.inner_text("#outcome")
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        wait_until(
            page, "document.querySelector('#key-note').textContent.includes('does not know')"
        )
        page.fill("#key", "a-secret-of-this-test")
        page.press("#key", "Enter")
        page.wait_for_selector(".model .state.ready")
        assert compare(page, "a", "b\nc")
        stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert stored == [0, 1, ""]
        page.click("#forget")
        wait_until(page, "document.querySelector('#models').textContent.includes('API key above')")
        assert page.evaluate("sessionStorage.length") == 0


def test_a_server_that_goes_away_and_comes_back(opened, one):
    page = start(opened, one, allowed=("Failed to load", "ERR_"))
    page.route("**/page/state*", lambda route: route.abort())
    page.wait_for_selector("#connection:not([hidden])")
    assert "does not answer" in page.inner_text("#connection")
    page.unroute("**/page/state*")
    page.wait_for_selector("#connection", state="hidden")
