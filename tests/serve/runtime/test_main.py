"""Starting a server: which addresses need keys, and what is imported."""

import signal
import subprocess

import httpx
import pytest

from opengte.errors import InputError
from opengte.serve.auth.keys import KeyFile
from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime.main import check_access, is_loopback
from tests.support.serve_process import server

pytestmark = pytest.mark.slow


def test_a_public_address_needs_keys(tmp_path):
    with server("--host", "0.0.0.0", wait=False) as one:
        assert one.stop() in (1, -signal.SIGTERM)
    flags = ("--host", "0.0.0.0")
    _, secret = KeyFile(tmp_path).create("team")
    with server(*flags, env={"OPENGTE_STATE_DIR": str(tmp_path)}) as one:
        url = one.url.replace("0.0.0.0", "127.0.0.1")
        ask = {"json": {"input": "a"}, "timeout": 30}
        assert httpx.post(f"{url}/v1/embeddings", **ask).status_code == 401
        headers = {"authorization": f"Bearer {secret}"}
        assert httpx.post(f"{url}/v1/embeddings", headers=headers, **ask).status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers=headers).status_code == 200
        assert httpx.post(f"{url}/admin/reload", headers=headers).status_code == 403
        assert httpx.get(f"{url}/ready").status_code == 200


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.168.0.1"}, False),
        ({"host": "example.org"}, False),
        ({"host": ""}, False),
        ({"host": "0.0.0.0", "insecure": True}, True),
        ({"host": "0.0.0.0", "api_key": "k"}, True),
        ({"host": "0.0.0.0", "tls_cert": "c", "tls_client_ca": "c"}, True),
        ({"uds": "/tmp/x"}, True),
    ],
)
def test_which_addresses_need_keys(tmp_path, settings, allowed):
    wanted = ServerSettings(state_dir=str(tmp_path), **settings)
    if allowed:
        check_access(wanted)
    else:
        with pytest.raises(InputError, match="can be reached by other machines and there are no"):
            check_access(wanted)
        assert not is_loopback(wanted.host)


def test_starting_a_server_imports_no_torch():
    code = (
        "import sys, opengte.serve.runtime.components, opengte.serve.runtime.listener\n"
        "print(*sorted({'torch', 'transformers', 'prometheus_client', 'opentelemetry'} & "
        "set(sys.modules)))"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
