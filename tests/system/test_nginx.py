"""Behind nginx: a client that is refused breaks no other's requests; prefixes and slashes.

`OPENGTE_TEST_REQUESTS=10000` sends that many.
"""

import os
import socket
import subprocess
import threading
from collections import Counter

import httpx
import pytest

from opengte.serve.auth.keys import KeyFile
from tests.support.programs import program
from tests.support.serve_process import server
from tests.support.serve_sockets import until

REQUESTS = int(os.environ.get("OPENGTE_TEST_REQUESTS", "800"))

CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream gte {{ server {upstream}; keepalive 8; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://gte; proxy_request_buffering off; }}
        location /buffered/ {{ proxy_pass http://gte/; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def secret_and_url(tmp_path_factory):
    """A server with one key, and the address of an nginx before it."""
    folder = tmp_path_factory.mktemp("nginx")
    _, secret = KeyFile(folder).create("team")
    flags = ("--threads", "1", "--root-path", "/gte")
    with server(*flags, env={"OPENGTE_STATE_DIR": str(folder)}) as one:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = folder / "nginx.conf"
        upstream = one.url.removeprefix("http://")
        file.write_text(CONFIGURATION.format(folder=folder, upstream=upstream, port=port))
        nginx = subprocess.Popen(
            [program("nginx"), "-e", f"{folder}/nginx.err", "-c", str(file), "-p", str(folder)]
        )
        try:
            until(lambda: nginx.poll() is None and listens(port))
            yield secret, f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()
            nginx.wait(20)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("prefix", ["", "/buffered"], ids=["unbuffered", "buffered"])
@pytest.mark.parametrize(
    ("path", "status"), [("/v1/embeddings", 401), ("/v1/nope", 404), ("/v1/models", 405)]
)
def test_a_client_that_is_refused_breaks_no_others_requests(secret_and_url, prefix, path, status):
    secret, url = secret_and_url
    body, end, refused = {"input": "a cat"}, threading.Event(), Counter()

    def disturb():
        with httpx.Client(base_url=url + prefix, timeout=60) as client:
            while not end.is_set():
                refused[client.post(path, json=body).status_code] += 1

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    answered = Counter()
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=url + prefix, headers=headers, timeout=60) as client:
        for _ in range(REQUESTS // 6):
            answered[client.post("/v1/embeddings", json=body).status_code] += 1
    end.set()
    disturbing.join()
    assert answered == {200: REQUESTS // 6}
    assert set(refused) == {status}


@pytest.mark.parametrize("prefix", ["", "/gte", "/buffered", "/buffered/gte"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_is_stripped_or_not_and_nobody_is_redirected(secret_and_url, prefix, slash):
    secret, url = secret_and_url
    headers = {"authorization": f"Bearer {secret}"}
    url = f"{url}{prefix}/v1/embeddings{slash}"
    assert httpx.post(url, json={"input": "a"}, headers=headers).status_code == 200
