"""A knowledge base as a server of the Model Context Protocol, with tools `search` and `fetch`.

`search.web.agent.AgentTools` makes the answers; this module adds names, schemas and errors.
"""

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from opengte import __version__
from opengte.errors import MissingExtraError, OpenGTEError
from opengte.search.web.agent import DEFAULT_TOKENS, MAX_RESULTS, MIN_TOKENS, AgentTools

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver import ResourceSecurity
    from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
    from mcp_types import ToolAnnotations
    from pydantic import Field
except ImportError:
    raise MissingExtraError("mcp", "mcp", "The MCP server") from None

INSTRUCTIONS = (
    "Search a collection of documents. `search` returns the best passages with the ids of their "
    "documents; `fetch` reads a document, or the characters or the page that are wanted. Answers "
    "are JSON and never have more tokens than max_tokens; `cut` says what was left out."
)
SEARCH = (
    "Find passages that answer a question, by meaning and by words. Each result has the id of its "
    "document (for `fetch`), its title, and the characters at which the passage is."
)
FETCH = (
    "Read a document that `search` found: all of it, its characters from start to end, or a page. "
    "`next` says where to go on, where max_tokens was reached."
)
WHERE = (
    'Only documents whose metadata fit, such as {"year": {"$gte": 2020}, "lang": {"$in": ["de"]}}; '
    "$eq $ne $lt $lte $gt $gte $in $nin $starts $contains, $and $or $not"
)
READING = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
# ids are looked up in the index, never opened as files: they may look like any path
ANY_ID = ResourceSecurity(exempt_params={"id"})

Tokens = Annotated[
    int | None,
    Field(
        description=f"Most tokens of the answer, at least {MIN_TOKENS}; without it {DEFAULT_TOKENS}"
    ),
]


def server(desk: AgentTools) -> "MCPServer[Any]":
    """Return the server of a knowledge base; `run` or `streamable_http_app` start it."""
    made: MCPServer[Any] = MCPServer(
        "opengte", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )

    @made.tool(description=SEARCH, annotations=READING, structured_output=False)
    @_told(ToolError)
    def search(
        query: Annotated[str, Field(description="The question, in any words")],
        limit: Annotated[int, Field(description=f"Results, 1 to {MAX_RESULTS}")] = 5,
        where: Annotated[dict[str, Any] | None, Field(description=WHERE)] = None,
        max_tokens: Tokens = None,
    ) -> str:
        return desk.search(query, limit, where, max_tokens)

    @made.tool(description=FETCH, annotations=READING, structured_output=False)
    @_told(ToolError)
    def fetch(
        id: Annotated[str, Field(description="The id of a document, as `search` returned it")],
        start: Annotated[int | None, Field(description="First character, from 0")] = None,
        end: Annotated[int | None, Field(description="Character after the last")] = None,
        page: Annotated[int | None, Field(description="Page of a PDF, from 1")] = None,
        max_tokens: Tokens = None,
    ) -> str:
        return desk.fetch(id, start, end, page, max_tokens)

    @made.resource(
        "kb://about",
        title="About this collection",
        description="How many documents there are, and the fields that `where` may use",
        mime_type="application/json",
    )
    @_told(ResourceNotFoundError)
    def about() -> str:
        return desk.about()

    @made.resource(
        "kb://document/{id}",
        title="A document",
        description="A document by its id (percent-encoded), as much as fits in one answer",
        mime_type="application/json",
        security=ANY_ID,
    )
    @_told(ResourceNotFoundError)
    def document(id: str) -> str:
        return desk.fetch(id, max_tokens=desk.most)

    return made


def serve(desk: AgentTools, port: int | None = None) -> None:
    """Serve over stdin and stdout, or over HTTP on this machine's loopback at /mcp of a port."""

    def warm() -> None:
        with suppress(Exception):  # the first question tells it
            desk.kb.encoder  # noqa: B018

    threading.Thread(target=warm, daemon=True).start()
    made = server(desk)
    if port is None:
        made.run("stdio")
    else:
        made.run("streamable-http", host="127.0.0.1", port=port, stateless_http=True)


def _told(error: type[Exception]) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Return a decorator: what OpenGTE raises on purpose is told to the agent, with its hints."""

    def decorated(work: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(work)
        def told(*args: Any, **values: Any) -> str:
            try:
                return work(*args, **values)
            except OpenGTEError as reason:
                hints = getattr(reason, "__notes__", [])
                raise error("; ".join([str(reason), *hints])) from reason

        return told

    return decorated
