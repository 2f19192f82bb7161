"""Random requests, good and bad, from the server's own OpenAPI document, for a while.

    python bench/serve_fuzz.py [--seconds 600]

Starts a server with an encoder and a small reranker, and lets schemathesis ask it. Fails on any
answer of 500 or more but an honest 503, on answers that the document does not describe, on lines in
the log that are errors, and when the server is gone or still busy in the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import random_checkpoint  # noqa: E402
from serve_peers import servers  # noqa: E402
from serve_peers.catalog import SERVERS  # noqa: E402

from opengte import hub  # noqa: E402

RERANKER = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["1xx", "2xx", "3xx", "4xx", "503"]
"""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--serve", default="", help="further options of `gte serve`, one string")
    return parser.parse_args()


def fuzz(url: str, folder: Path, seconds: int, seed: int) -> int:
    """Run schemathesis; return its exit status."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{url}/openapi.json", "--max-time", str(seconds), "--seed", str(seed)]
    command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"]
    command += ["--suppress-health-check", "all", "--request-timeout", "60", "--warnings", "off"]
    command += ["--continue-on-failure", "--no-color"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=folder, env=environment).returncode


def errors_in(log: Path) -> list[str]:
    """Return the lines of the server's log that are errors, or no JSON."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        honest = entry.get("event") == "request" and entry.get("status", 500) in (*range(500), 503)
        if entry.get("level") in ("error", "critical") and not honest:
            found.append(line)
    return found


def main() -> int:
    """Fuzz, and tell what was found."""
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_checkpoint.write(folder / "reranker", RERANKER, 1, "F32")
        place = servers.Place(
            model=hub.fetch_model("minilm").folder,
            environments=folder,
            cache=folder,
            threads=os.cpu_count() or 1,
            options=("--model", f"reranker={folder / 'reranker'}", *options.serve.split()),
        )
        with servers.running(SERVERS[0], place) as one:
            url = f"http://127.0.0.1:{one.port}"
            status = fuzz(url, folder, options.seconds, options.seed)
            alive = one.alive() and one.post(["still there?"])[0] == 200
            errors = errors_in(one.log)
    print(f"\nschemathesis: {'passed' if status == 0 else 'FAILED'}; server afterwards: ", end="")
    print(
        "answers" if alive else "GONE",
        f"; errors in its log: {len(errors)}",
        *errors[:10],
        sep="\n",
    )
    return 0 if status == 0 and alive and not errors else 1


if __name__ == "__main__":
    sys.exit(main())
