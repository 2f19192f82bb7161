"""Inputs and outputs in a bucket, on moto's server of the real protocol."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from opengte.bulk.shards.places import Place
from opengte.bulk.shards.plan import BulkPlan, shard_file
from opengte.bulk.shards.status import run_status
from tests.support import bulk

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    pytest.importorskip("obstore")
    server.start()
    host, port = server.get_host_and_port()
    values = {"ENDPOINT": f"http://{host}:{port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    values |= {"ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing"}
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket=f"rows-{port}")
    yield client, f"rows-{port}"
    server.stop()


@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_of_a_folder(bucket, tmp_path):
    client, name = bucket
    bulk.write_inputs(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        client.upload_file(str(path), name, f"in/{path.name}")
    local = bulk.plan(tmp_path / "in", tmp_path / "out", shard_rows=30)
    bulk.run(local)
    made = bulk.plan(f"s3://{name}/in", f"s3://{name}/out", shard_rows=30)
    assert (made.totals.rows, made.totals.shards) == (local.totals.rows, local.totals.shards)
    report = bulk.run(BulkPlan.open(f"s3://{name}/out"))
    assert report.counts.written == 90
    for shard in local.shards():
        file = shard_file(shard.number)
        assert made.place.read(file) == local.place.read(file)
    assert run_status(made).state == "complete"
    assert bulk.run(made).was_done


def test_only_the_first_of_several_writers_publishes(bucket, tmp_path):
    _, name = bucket
    for place in (Place(f"s3://{name}/race"), Place(str(tmp_path))):
        with ThreadPoolExecutor(8) as threads:
            jobs = [threads.submit(place.publish, "a/file", b"%d" % n) for n in range(8)]
            [job.result() for job in jobs]
        assert place.read("a/file") in {b"%d" % n for n in range(8)}
    place = Place(f"s3://{name}/race")
    kept = place.read("a/file")
    place.publish("a/file", b"other")
    assert place.read("a/file") == kept
    place.publish("a/file", b"other", replace=True)
    assert place.read("a/file") == b"other"
    assert place.read("none") is None
    assert place.sizes("a") == {"file": 5}
    assert place.sizes("none") == {}
