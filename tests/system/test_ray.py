"""The server as a Ray deployment of two replicas, on a local cluster, with API keys."""

import os
import socket
import subprocess
import sys

from opengte.serve.auth.keys import KeyFile

START = """
import os, re, sys, httpx, ray
from ray import serve
from opengte.serve.runtime import ray_app
from opengte.serve.config.settings import ServerSettings

port, *arguments = sys.argv[1:]
paths = os.pathsep.join(path for path in sys.path if path)

def run(settings, **variables):
    options = {"num_cpus": 0.5, "runtime_env": {"env_vars": {"PYTHONPATH": paths, **variables}}}
    env = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env=env)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    application = ray_app.deployment(settings, num_replicas=2, ray_actor_options=options)
    serve.run(application, route_prefix="/")
"""

CLUSTER = """
def ask(key, path="/v1/embeddings", **body):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=120) as client:  # a new connection each time
        return client.post(path, json=body, headers=headers)

def scrape(key):
    headers = {"authorization": f"Bearer {key}"}
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=120).text
    found = re.findall(r'opengte_texts_total{model="minilm",replica="(\\w+)"} (\\S+)', page)
    return dict(found)

folder, member, operator = arguments
run(ServerSettings(state_dir=folder, threads=1))
for key in (None, "gte_wrong", member[:-1]):
    assert {ask(key, input="a").status_code for _ in range(12)} == {401}, key
sent, counts = 0, {}
while len(counts) < 2:  # Ray's proxy chooses the replica of each request
    assert sent < 2000, counts
    for key in (member, operator):
        answer = ask(key, input=f"a cat {sent}")
        assert [len(row["embedding"]) for row in answer.json()["data"]] == [384]
        sent += 1
    counts |= scrape(operator)
known = {}
for _ in range(2000):
    known |= scrape(operator)
    if sum(map(float, known.values())) == sent:
        break
assert sum(map(float, known.values())) == sent, (known, sent)
for _ in range(12):
    answer = ask(operator, "/admin/reload")
    assert answer.status_code == 400, answer.text
    assert "one replica of this deployment only" in answer.text
assert ask(member, "/admin/reload").status_code == 403
print("reloads are refused")
serve.shutdown()
ray.shutdown()
"""

OTHER_NODE = """
try:
    run(ServerSettings(threads=1), OPENGTE_STATE_DIR=arguments[0])
except RuntimeError:
    found = str(serve.status().applications["default"].deployments)
    print("refused" if "needs API keys, and its replica on" in found else found)
serve.shutdown()
ray.shutdown()
"""


def on_a_cluster(program, *arguments, **variables):
    """Return what a program prints that starts a local cluster; it must end well."""
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # of a machine that does much else
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", START + program, str(port), *map(str, arguments)],
        env={**os.environ, **environment, **variables},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_two_replicas_with_keys(tmp_path):
    _, member = KeyFile(tmp_path).create("team")
    _, operator = KeyFile(tmp_path).create("operator", admin=True)
    said = on_a_cluster(CLUSTER, tmp_path, member, operator)
    assert "reloads are refused" in said, said


def test_replicas_on_a_node_without_the_keys_of_the_deployment(tmp_path):
    KeyFile(tmp_path / "here").create("team")
    said = on_a_cluster(OTHER_NODE, tmp_path / "other", OPENGTE_STATE_DIR=str(tmp_path / "here"))
    assert "refused" in said, said
