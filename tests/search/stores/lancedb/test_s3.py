"""An index in a bucket: the same code, two writers, on moto's server of the real protocol."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opengte.search.kb import KnowledgeBase
from tests.support import kb as helpers
from tests.support.installed import needs

needs("lancedb")
ROOT = Path(__file__).parents[4]
WRITER = """
import sys
from opengte.search.ingest import writer as commits
from opengte.search.kb import KnowledgeBase
from tests.support.kb import WordEncoder
commits.BATCH_DOCUMENTS = 5
base = KnowledgeBase.open(sys.argv[1], WordEncoder.load("minilm"))
assert base.index([sys.argv[2]]).new == 20
"""


@pytest.fixture
def bucket(monkeypatch):
    """A bucket, and the environment in which LanceDB finds it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    import boto3

    # servers of one process share what they hold: each test gets a bucket of its own
    name = f"documents-{port}"
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=name)
    yield f"s3://{name}/kb"
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_write_into_one_bucket(bucket, tmp_path):
    base = KnowledgeBase.create(bucket, helpers.encoder())
    writers = []
    for part in range(2):
        folder = tmp_path / f"files{part}"
        folder.mkdir()
        for n in range(20):
            (folder / f"{n}.txt").write_text(f"document {n} of part {part}")
        writers.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, bucket, str(folder)],
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            )
        )
    assert [child.wait(timeout=240) for child in writers] == [0, 0]
    documents = [one.id for one in base.store.scan()]
    assert len(documents) == len(set(documents)) == 40
    assert base.store.health().windows == 40
    hit = KnowledgeBase.open(bucket, helpers.encoder()).search("part 1", 1).hits[0]
    assert hit.id.endswith(".txt")
