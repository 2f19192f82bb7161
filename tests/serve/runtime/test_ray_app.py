"""The server inside Ray Serve, on a local cluster; and its application without Ray."""

import asyncio
import importlib.util
import os
import subprocess
import sys

import httpx
import pytest

from opengte.errors import InputError, MissingExtraError, NotReadyError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime import ray_app

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray, as it is imported
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (extra `bulk`)"
)


def live(replica, talk):
    """Start an ASGI application, run talk(client), and end it."""

    async def main():
        asked: asyncio.Queue[dict] = asyncio.Queue()
        said: asyncio.Queue[dict] = asyncio.Queue()
        life = asyncio.create_task(replica({"type": "lifespan"}, asked.get, said.put))
        await asked.put({"type": "lifespan.startup"})
        first = await said.get()
        if first["type"] != "lifespan.startup.complete":
            await life
        transport = httpx.ASGITransport(app=replica)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            await talk(client)
        await asked.put({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await life

    asyncio.run(main())


def test_a_replica_answers_between_start_and_end(tmp_path):
    replica = ray_app.Replica(ServerSettings(state_dir=str(tmp_path)))

    async def talk(client):
        answer = await client.post("/v1/embeddings", json={"input": ["a", "b"]})
        assert len(answer.json()["data"]) == 2
        await replica.check()

    live(replica, talk)


def test_a_replica_without_a_model_does_not_start(tmp_path):
    replica = ray_app.Replica(
        ServerSettings(model=(str(tmp_path / "no"),), state_dir=str(tmp_path))
    )
    with pytest.raises(NotReadyError):
        live(replica, None)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_error_says_what_to_install():
    with pytest.raises(MissingExtraError, match=r"pip install 'opengte\[bulk\]'"):
        ray_app.deployment(ServerSettings(insecure=True))


@needs_ray
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"insecure": True, "port": 1}, "port: Ray's proxy listens"),
        ({"insecure": True, "workers": 2}, "workers: Ray's proxy listens"),
        ({}, "there are no API keys, and Ray's proxy may be reached by other machines"),
    ],
)
def test_settings_that_ray_decides(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        ray_app.deployment(ServerSettings(state_dir=str(tmp_path), **settings))


@needs_ray
def test_arguments_of_serve_run():
    with pytest.raises(InputError, match="modell: there is no such setting"):
        ray_app.app({"modell": "minilm"})


CLUSTER = """
import os, sys, httpx, ray
from ray import serve
from opengte.serve.runtime import ray_app
from opengte.serve.config.settings import ServerSettings

paths = os.pathsep.join(path for path in sys.path if path)
ray.init(
    num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}}
)
serve.start(http_options={"host": "127.0.0.1", "port": 18799})
settings = ServerSettings(state_dir=sys.argv[1], api_key="hush", threads=1)
serve.run(ray_app.deployment(settings, ray_actor_options={"num_cpus": 0.5}), route_prefix="/")
with httpx.Client(base_url="http://127.0.0.1:18799", timeout=60) as client:
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 401
    headers = {"authorization": "Bearer hush"}
    answer = client.post("/v1/embeddings", json={"input": ["a", "b"]}, headers=headers)
    assert [len(row["embedding"]) for row in answer.json()["data"]] == [384, 384]
    assert client.get("/ready").status_code == 200
    metrics = client.get("/metrics", headers=headers).text
    assert 'opengte_texts_total{model="minilm"} 2.0' in metrics
serve.shutdown()
ray.shutdown()
print("answered")
"""


@needs_ray
@pytest.mark.slow
def test_a_deployment_on_a_local_cluster(tmp_path):
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # of a machine that does much else
    }
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "answered" in done.stdout, done.stderr
