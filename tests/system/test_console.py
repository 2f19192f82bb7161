"""The console in a headless Chromium: no complaint, no violation, at two widths and two themes."""

from importlib import resources

import pytest
from openai import OpenAI

from opengte.serve.console.accounts import Accounts
from opengte.serve.console.database import open_database
from tests.support.browser import wait_until
from tests.support.oidc_provider import CLIENT, SECRET, provider
from tests.support.serve_process import server

AXE = resources.files("axe_core_python").joinpath("axe.min.js")


@pytest.fixture(scope="module")
def one():
    with server("--model", "minilm", "--console", "--hourly-cost", "0.09") as running:
        running.embed(["some words to measure a speed with"])
        yield running


def check(page):
    """Assert that a page is accessible and fits the window, and loads nothing from elsewhere."""
    page.evaluate(AXE.read_text())
    assert page.evaluate("axe.run().then((found) => found.violations.map((v) => v.id))") == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    loaded = "performance.getEntriesByType('resource').every((e) => e.name.startsWith(origin))"
    assert page.evaluate(loaded)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "path", ["models", "models/minilm", "models/Alibaba-NLP/gte-Qwen2-7B-instruct"]
)
def test_pages(opened, one, path, width, scheme):
    check(opened(f"{one.url}/{path}", width=width, color_scheme=scheme))


def test_trying_a_model_and_code_to_copy(opened, one):
    page = opened(f"{one.url}/models/minilm")
    page.click("[data-example=long]")
    page.wait_for_selector(".results tbody tr")
    assert "cut from 9,003" in page.inner_text(".results")
    page.click("[data-example=two]")
    wait_until(page, "document.querySelectorAll('.results tbody tr').length === 1 &&"
               " !document.querySelector('.cut')")  # fmt: skip
    assert f'base_url="{one.url}/v1"' in page.inner_text("code.snippet-code >> nth=0")


def test_filters(opened, one):
    page = opened(f"{one.url}/models")
    page.fill("#q", "qwen2 7b")
    page.click("text=Show")
    page.wait_for_selector("text=1 of")
    page.click("text=gte-Qwen2-7B-instruct")
    page.wait_for_selector("h1 >> text=gte-Qwen2-7B-instruct")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_from_a_link_to_a_team_and_out(opened, one, width, scheme):
    accounts = Accounts(open_database(None, one.state))
    user = accounts.create_user(f"Ada {width}", operator=True)
    link = f"{one.url}/console/link/{accounts.create_link(user.id)}"
    page = opened(link, width=width, color_scheme=scheme)
    check(page)
    page.click("main button")
    page.wait_for_url("**/console/account")
    check(page)
    page.click("text=Users and teams")
    page.fill("#name", "Bob")
    page.click("text=Invite")
    page.wait_for_selector("#link")
    check(page)
    page.fill("#team", "Search")
    page.click("text=Create")
    page.wait_for_selector("h1 >> text=Search")
    check(page)
    page.click("text=Audit log")
    page.wait_for_selector("td >> text=create-team >> nth=0")
    check(page)
    page.goto(f"{one.url}/console/account")
    page.click("text=Sign out everywhere")
    page.wait_for_url("**/console/sign-in")
    check(page)


def test_from_sign_in_to_the_credit_that_fell_by_the_price(opened):
    with provider() as identity:
        identity.user = {"sub": "1", "name": "Ada Lovelace", "groups": ["staff"]}
        flags = ["--model", "minilm", "--console", "--currency", "EUR", "--price", "0.02"]
        flags += ["--free-credit", "5", "--oidc-issuer", identity.issuer]
        flags += ["--oidc-client-id", CLIENT, "--oidc-operators", "staff"]
        with server(*flags, env={"OPENGTE_OIDC_CLIENT_SECRET": SECRET}) as running:
            page = opened(f"{running.url}/console")
            page.click("text=Sign in with your organisation")
            page.wait_for_selector("h1 >> text=Ada Lovelace")
            page.click("text=Keys")
            page.fill("#name", "first")
            page.click("text=Make a key")
            page.wait_for_selector("#new-key")
            check(page)
            secret = page.inner_text("#new-key").strip()
            page.click("#keep-key")
            client = OpenAI(base_url=f"{running.url}/v1", api_key=secret)
            asked = client.embeddings.create(model="minilm", input=["a kitten naps"] * 3)
            page.wait_for_timeout(2500)  # until it is booked
            page.click("text=Use and credit")
            page.wait_for_selector("#left")
            left = float(page.inner_text("#left").replace(",", ""))
            assert left == pytest.approx(5 - asked.usage.total_tokens * 0.02 / 1e6, abs=6e-7)
            assert page.evaluate("document.querySelectorAll('.barchart rect').length") == 30
            assert "minilm" in page.inner_text("main")
            check(page)
            page.goto(f"{running.url}/models/minilm")
            assert secret in page.inner_text("code.snippet-code >> nth=0")
            page.click("[data-example=two]")
            page.wait_for_selector(".results tbody tr")
            check(page)
