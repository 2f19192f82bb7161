import json
import re
from importlib import resources

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from opengte.errors import AccessError
from opengte.serve.http.pages import page_routes
from opengte.serve.observability.load_history import (
    LoadHistory,
)
from tests.support.serve_fakes import FakeService

FOLDERS = (
    resources.files("opengte.serve").joinpath("pages"),
    resources.files("opengte").joinpath("static"),  # shared with other pages
)
FILES = sorted(
    (file for folder in FOLDERS for file in folder.iterdir()), key=lambda file: file.name
)


def client(ring=None, authorize=None, service=None):
    routes = page_routes(service or FakeService(), ring or LoadHistory(), authorize)
    return TestClient(Starlette(routes=routes))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/assets/start.js", "text/javascript"),
        ("/assets/style.css", "text/css"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/theme.js", "text/javascript"),
    ],
)
def test_files_with_their_headers(path, kind):
    with client() as one:
        answer = one.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = one.get(path, headers={"if-none-match": f'"x", {answer.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
        assert one.get(path, headers={"if-none-match": '"other"'}).status_code == 200
        assert one.head(path).status_code == 200
        assert one.post(path).status_code == 405


@pytest.mark.parametrize("path", ["/assets/", "/assets/index.html", "/assets/../http/pages.py"])
def test_nothing_else_is_served(path):
    with client() as one:
        assert one.get(path).status_code == 404


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_pages_load_nothing_from_elsewhere_and_need_no_inline_code(file):
    text = file.read_text()
    found = set(re.findall(r"https?://[^\s\"'`<)]+", text))
    assert found <= {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "eval(" not in text
    if file.name.endswith(".html"):
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", text)
        assert 'lang="en"' in text


def test_every_file_that_a_page_names_is_there():
    with client() as one:
        for file in FILES:
            text = file.read_text()
            for path in re.findall(r'"(assets/[^"]+)"', text):
                assert one.get(f"/{path}").status_code == 200, path
            for module in re.findall(r'from "\./([^"]+)"', text):
                assert one.get(f"/assets/{module}").status_code == 200, module


def test_the_state():
    ring = LoadHistory(clock=lambda: 1000.5)
    ring.batch("fake", 3, 40, 100, 0.25)
    ring.record_request(200, 0.01)
    with client(ring) as one:
        answer = one.get("/page/state")
        assert answer.headers["cache-control"] == "no-store"
        state = answer.json()
        assert [model["name"] for model in state["models"]] == ["fake", "fake-reranker"]
        card = state["models"][0]["card"]
        assert card["max_length"] == 8
        assert "source" not in card  # may be a path of this machine
        assert state["models"][0]["max_batch_tokens"] == 4096
        assert state["seconds"][-1]["second"] == 999  # whole seconds only
        assert state["workers"] == 1
        json.dumps(state, allow_nan=False)


def test_a_model_that_is_not_loaded():
    service = FakeService()
    service.states["fake"] = "loading"
    with client(service=service) as one:
        model = one.get("/page/state").json()["models"][0]
        assert (model["state"], model["card"]) == ("loading", None)


@pytest.mark.parametrize("since", ["", "x", "-5", "9" * 5000, "1e3", "²", "٣", "%00"])
def test_since_may_be_nonsense(since):
    with client() as one:
        assert one.get(f"/page/state?since={since}").status_code == 200


def test_the_state_has_the_models_that_the_request_may_see():
    with client(authorize=lambda request: lambda model: model == "fake") as one:
        models = one.get("/page/state").json()["models"]
        assert [model["name"] for model in models] == ["fake"]


@pytest.mark.parametrize(("known", "status"), [(False, 401), (True, 403)])
def test_the_state_needs_a_key_where_the_server_does(known, status):
    def authorize(request):
        raise AccessError("No such key.", known)

    with client(authorize=authorize) as one:
        answer = one.get("/page/state")
        assert answer.status_code == status
        assert answer.json() == {"error": "No such key."}
        assert one.get("/").status_code == 200  # no data is in it
