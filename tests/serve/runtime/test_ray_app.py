"""The server inside Ray Serve, on a local cluster; and its application without Ray."""

import asyncio
import importlib.util
import sys

import httpx
import pytest

from opengte.errors import InputError, MissingExtraError, NotReadyError
from opengte.serve.auth.keys import KeyFile
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
    replica = ray_app.Replica(ServerSettings(state_dir=str(tmp_path)), key_needed=False, name="r1")

    async def talk(client):
        answer = await client.post("/v1/embeddings", json={"input": ["a", "b"]})
        assert len(answer.json()["data"]) == 2
        await replica.check()
        page = (await client.get("/metrics")).text
        samples = [line for line in page.splitlines() if not line.startswith("#")]
        assert samples and all('replica="r1"' in line for line in samples)

    live(replica, talk)


def test_a_replica_without_a_model_does_not_start(tmp_path):
    replica = ray_app.Replica(
        ServerSettings(model=(str(tmp_path / "no"),), state_dir=str(tmp_path)), key_needed=False
    )
    with pytest.raises(NotReadyError):
        live(replica, None)


@pytest.mark.parametrize("insecure", [False, True])
def test_a_replica_that_does_not_see_the_keys_does_not_start(tmp_path, insecure):
    settings = ServerSettings(state_dir=str(tmp_path), insecure=insecure)
    with pytest.raises(InputError, match="needs API keys, and its replica on .* sees none in"):
        ray_app.Replica(settings, key_needed=True)


def test_a_reload_is_refused_by_one_of_many(tmp_path):
    _, secret = KeyFile(tmp_path).create("operator", admin=True)
    replica = ray_app.Replica(ServerSettings(state_dir=str(tmp_path)), key_needed=True)

    async def talk(client):
        stranger = await client.post("/v1/embeddings", json={"input": "a"})
        assert stranger.status_code == 401
        headers = {"authorization": f"Bearer {secret}"}
        answer = await client.post("/admin/reload", headers=headers)
        assert answer.is_error
        assert "one replica of this deployment only" in answer.json()["error"]["message"]

    live(replica, talk)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
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
