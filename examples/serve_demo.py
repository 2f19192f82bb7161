"""The server demo: start `gte serve`, ask it with three official clients, end it.

Run it by `make serve-demo`. The clients are `openai`, `cohere` and `ollama`, as their makers
publish them; only the address differs.
"""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

QUERY = "why is 0.1 + 0.2 not equal to 0.3?"
DOCUMENTS = (
    "Binary floating point cannot represent one tenth exactly.",
    "Default values of arguments are evaluated once.",
    "A kitten takes a nap on the window sill.",
)
READY_SECONDS = 120
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Run a server with the default model on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    say(f"gte serve --port {port}")
    command = [str(Path(sys.executable).parent / "gte"), "serve", "--port", str(port)]
    options = ["--log-level", "warning"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *options])
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() > start + READY_SECONDS:
                raise SystemExit("the server did not become ready; its log is above")
            time.sleep(0.02)
        print(f"ready after {time.perf_counter() - start:.1f} s")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        print(f"\nThe server ended with status {process.wait(60)}.")


def is_ready(port: int) -> bool:
    """Return whether the models are loaded."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def show(query: Sequence[float], documents: Sequence[Sequence[float]]) -> None:
    """Print the similarity of each document."""
    for vector, text in zip(documents, DOCUMENTS, strict=True):
        similarity = sum(a * b for a, b in zip(query, vector, strict=True))
        print(f"  {similarity:6.3f}  {text}")


def ask_openai(url: str) -> None:
    """Embed by OpenAI's client."""
    from openai import OpenAI

    say('openai: OpenAI(base_url=".../v1").embeddings.create(...)')
    client = OpenAI(base_url=f"{url}/v1", api_key="none is needed here")
    answer = client.embeddings.create(model="minilm", input=[QUERY, *DOCUMENTS])
    query, *documents = [item.embedding for item in answer.data]
    show(query, documents)
    print(f"  {answer.usage.prompt_tokens} tokens, {len(query)} numbers a vector")


def ask_cohere(url: str) -> None:
    """Embed by Cohere's client, which says what a text is for."""
    import cohere

    say('cohere: ClientV2(base_url=...).embed(input_type="search_query", ...)')
    client = cohere.ClientV2(api_key="none is needed here", base_url=url)
    vectors = []
    for role, texts in (("search_query", [QUERY]), ("search_document", list(DOCUMENTS))):
        answer = client.embed(
            model="minilm", texts=texts, input_type=role, embedding_types=["float"]
        )
        vectors += answer.embeddings.float_ or []
    show(vectors[0], vectors[1:])


def ask_ollama(url: str) -> None:
    """Embed by Ollama's client."""
    import ollama

    say("ollama: Client(host=...).embed(...)")
    client = ollama.Client(host=url)
    print("  models:", ", ".join(str(model.model) for model in client.list().models))
    answer = client.embed(model="minilm", input=[QUERY, *DOCUMENTS])
    show(answer.embeddings[0], answer.embeddings[1:])


def main() -> None:
    """Run the demo."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    with served() as url:
        for ask in (ask_openai, ask_cohere, ask_ollama):
            ask(url)
        say("In a browser:")
        print("  gte serve, then http://127.0.0.1:8080/ to try a query, /docs for the API")


if __name__ == "__main__":
    main()
