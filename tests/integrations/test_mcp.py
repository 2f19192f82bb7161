"""An index as tools of an agent: a client of the protocol's own SDK talks to `gte mcp`."""

import json
import socket
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest

from opengte.errors import InputError
from opengte.search.filters import parse_filter
from opengte.search.kb import KnowledgeBase
from opengte.search.web.agent import AgentTools
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb", "mcp")
ROOT = Path(__file__).parents[2]
PROGRAM = """
import opengte
from opengte.cli import main
from tests.support.kb import WordEncoder
opengte.Encoder = WordEncoder
main()
"""
NOTES = {
    "git.md": "# Git\n\n## Undo\n\nA commit is undone with revert.\n\n## Push\n\nA push sends.\n",
    "cats.md": "---\nteam: pets\n---\n# Cats\n\n" + "The cat sleeps in the river house. " * 30,
    "o'dd #1.txt": "the tax law of a stone house",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "notes").mkdir()
    for name, text in NOTES.items():
        (folder / "notes" / name).write_text(text)
    base = KnowledgeBase.create(folder / "kb", helpers.encoder())
    assert base.index([folder / "notes"]).new == 3
    return folder / "kb"


@pytest.fixture
def desk(place):
    return AgentTools(KnowledgeBase.open(place, helpers.encoder()))


@asynccontextmanager
async def session(*arguments):
    """A session of the client over the stdin and stdout of a process."""
    from mcp import ClientSession, StdioServerParameters, stdio_client

    started = StdioServerParameters(
        command=sys.executable,
        args=["-c", PROGRAM, "mcp", *map(str, arguments)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    with open("/dev/null", "w") as quiet:
        async with stdio_client(started, quiet) as streams, ClientSession(*streams) as client:
            await client.initialize()
            yield client


def talk(*arguments, about):
    """Run a conversation with a server of these arguments."""

    async def main():
        with anyio.fail_after(60):
            async with session(*arguments) as client:
                return await about(client)

    return anyio.run(main)


async def call(client, name, **values):
    """Call a tool; return what it wrote, decoded, or its error."""
    found = await client.call_tool(name, values)
    (part,) = found.content
    return part.text if found.is_error else json.loads(part.text)


def test_a_session_finds_a_passage_and_reads_its_document(place):
    async def about(client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "fetch"}
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        assert "query" in tools["search"].input_schema["required"]

        found = await call(client, "search", query="commit undone revert")
        best = found["results"][0]
        assert best["title"] == "Git" and best["heading"] == "Undo"
        assert "revert" in best["text"] and "cut" not in found

        whole = await call(client, "fetch", id=best["id"])
        assert whole["text"] == NOTES["git.md"].strip("\n") or "A push sends" in whole["text"]
        start, end = best["characters"]
        part = await call(client, "fetch", id=best["id"], start=start, end=end)
        assert part["text"] == whole["text"][start:end] == best["text"]

        for one in (await call(client, "search", query="house cat tax", limit=3))["results"]:
            assert (await call(client, "fetch", id=one["id"]))["id"] == one["id"]

        few = {"folder": {"$contains": "notes"}, "team": "pets"}
        found = await call(client, "search", query="commit", where=few)
        assert [one["title"] for one in found["results"]] == ["Cats"]
        nothing = await call(client, "search", query="commit", where={"team": "none"})
        assert nothing == {"results": [], "note": "no document fits the filter"}

    talk(place, about=about)


def test_errors_are_answers_that_say_what_is_wrong(place):
    async def about(client):
        assert "no document here" in await call(client, "fetch", id="/etc/passwd")
        assert "expected $and" in await call(client, "search", query="x", where={"$nor": []})
        assert "limit is 0" in await call(client, "search", query="x", limit=0)
        assert "max_tokens is 3" in await call(client, "search", query="x", max_tokens=3)
        assert "expected some words" in await call(client, "search", query=" ")
        assert "query" in await call(client, "search")
        assert (await call(client, "search", query="commit"))["results"]  # and it goes on

    talk(place, about=about)


def test_documents_are_resources_too(place):
    from mcp import MCPError

    async def about(client):
        told = json.loads((await client.read_resource("kb://about")).contents[0].text)
        assert told["documents"] == 3 and "team" in told["fields"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [one.uri_template for one in templates] == ["kb://document/{id}"]
        for one in (await call(client, "search", query="stone tax law"))["results"]:
            read = await client.read_resource(f"kb://document/{quote(one['id'], safe='')}")
            assert json.loads(read.contents[0].text)["id"] == one["id"]
        with pytest.raises(MCPError, match="no document here"):
            await client.read_resource("kb://document/none")

    talk(place, about=about)


def test_documents_outside_the_filter_of_the_server_are_not_there(place, desk):
    from mcp import MCPError

    ids = {one["title"]: one["id"] for one in json.loads(desk.search("cat commit", 9))["results"]}

    async def about(client):
        found = await call(client, "search", query="commit undone revert", limit=9)
        assert [one["title"] for one in found["results"]] == ["Cats"]
        for attempt in ({"team": {"$ne": "pets"}}, {"$not": {"team": "pets"}}):
            found = await call(client, "search", query="commit", where=attempt)
            assert found["results"] == []
        assert "no document here" in await call(client, "fetch", id=ids["Git"])
        assert (await call(client, "fetch", id=ids["Cats"]))["title"] == "Cats"
        with pytest.raises(MCPError, match="no document here"):
            await client.read_resource(f"kb://document/{quote(ids['Git'], safe='')}")
        told = json.loads((await client.read_resource("kb://about")).contents[0].text)
        assert told["documents"] == 1

    talk(place, "--where", "team=pets", about=about)


def test_it_listens_on_the_loopback_too(place):
    import subprocess

    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "mcp", str(place), "--http", str(port)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )

    async def main():
        async with streamable_http_client(f"http://127.0.0.1:{port}/mcp") as streams:
            async with ClientSession(*streams[:2]) as client:
                await client.initialize()
                return await call(client, "search", query="commit revert")

    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        assert anyio.run(main)["results"][0]["title"] == "Git"
    finally:
        child.terminate()
        child.wait(timeout=30)


@pytest.mark.parametrize("tokens", [*range(64, 130, 6), 200, 400])
def test_no_answer_has_more_tokens_than_asked_for(desk, tokens):
    count = desk.kb.encoder.tokenizer.count
    for made in (
        lambda: desk.search("cat commit house", 3, None, tokens),
        lambda: desk.fetch(cats(desk), max_tokens=tokens),
        lambda: desk.fetch(cats(desk), 100, 700, max_tokens=tokens),
    ):
        text = made()
        assert count([text])[0] <= tokens and len(text) <= 8 * tokens
        assert json.loads(text).keys() & {"results", "text"}


def cats(desk):
    return json.loads(desk.search("cat sleeps", 1))["results"][0]["id"]


def test_a_long_document_is_read_in_parts_that_join(desk):
    name, parts, start = cats(desk), [], 0
    while start is not None:
        found = json.loads(desk.fetch(name, start, max_tokens=80))
        assert found["characters"][0] == start
        parts.append(found["text"])
        assert ("next" in found) == ("cut" in found and "characters left out" in found["cut"])
        start = found.get("next")
    assert len(parts) > 3
    assert "".join(parts) == desk.kb.store.fetch([name])[name].text


def test_what_is_left_out_is_said(tmp_path):
    base = KnowledgeBase.create(tmp_path / "kb", helpers.encoder(max_length=128))
    long = " ".join(f"word{n} about the cat" for n in range(20))
    base.add([f"{long} {n}" for n in range(9)], [f"document-{n}" for n in range(9)])
    desk, count = AgentTools(base), base.encoder.tokenizer.count
    whole = json.loads(desk.search("cat", 9, collapse=False, max_tokens=4000))
    assert len(whole["results"]) == 9 and "cut" not in whole
    for tokens, said in ((500, "passages shortened"), (100, "results left out")):
        text = desk.search("cat", 9, collapse=False, max_tokens=tokens)
        found = json.loads(text)
        assert said in found["cut"] and count([text])[0] <= tokens
        for one, entry in zip(found["results"], whole["results"], strict=False):
            assert one["id"] == entry["id"]
            assert entry["text"].startswith(one["text"].removesuffix(" …"))
    nearly = json.loads(desk.search("cat", 9))
    assert [len(one["nearly_the_same"]) for one in nearly["results"]] == [8]


def test_a_page_without_spaces_is_no_single_token(tmp_path):
    base = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    base.add(["x" * 5000, f"{'y ' * 40}z"], ["solid", "words"])
    text = AgentTools(base).fetch("solid", max_tokens=100)
    assert len(text) <= 800 and json.loads(text)["next"] > 300


def test_pages_and_spans(desk):
    from opengte.search.parse.base import Section

    text = "first page here\n\nthird page here\n\n"
    sections = (Section(0, "page 1"), Section(17, "page 3"))
    one = helpers.document(
        "scan.pdf", helpers.np.random.default_rng(0), text=text, sections=sections
    )
    desk.kb.store.put([one])
    try:
        assert json.loads(desk.fetch("scan.pdf", page=3))["text"] == text[17:]
        assert json.loads(desk.fetch("scan.pdf", page=1))["text"] == text[:17]
        with pytest.raises(InputError, match="page is 2, but the document has text on pages 1, 3"):
            desk.fetch("scan.pdf", page=2)
        with pytest.raises(InputError, match="beside start or end"):
            desk.fetch("scan.pdf", start=1, page=2)
    finally:
        desk.kb.store.delete(["scan.pdf"])
    with pytest.raises(InputError, match="has no pages"):
        desk.fetch(cats(desk), page=1)
    for start, end in ((-1, None), (5, 2), (10**9, None)):
        with pytest.raises(InputError, match="expected 0 <= start <= end"):
            desk.fetch(cats(desk), start, end)


def test_a_filter_of_the_desk_holds_for_everything(desk):
    limited = AgentTools(desk.kb, only=parse_filter({"team": "pets"}))
    assert json.loads(limited.about())["documents"] == 1
    assert "git.md" not in limited.search("commit revert", 9)
