"""Bulk embedding on real engines: two nodes of Ray, Ray Data, Daft, Spark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import checkpoints

TEXTS = [f"text {n} has {n % 7} words" for n in range(40)]
PATHS = os.pathsep.join(path for path in sys.path if path)

CLUSTER = """
import sys, threading, time
import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster
from opengte.cli import main

folder, paths = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
lost = cluster.add_node(num_cpus=1)
environment = {"env_vars": {"PYTHONPATH": paths}}
ray.init(address=cluster.address, log_to_driver=False, runtime_env=environment)

def gte(*arguments):
    found = CliRunner().invoke(main, ["bulk", *arguments])
    assert found.exit_code == 0, found.output + repr(found.exception)
    return found.output

model = ("--model", f"{folder}/model", "--engine", "native", "--precision", "fp32")
shards = ("--shard-tokens", "30", "--outputs", "passages")
gte("plan", f"{folder}/in", f"{folder}/out", *shards, *model)

def lose():
    while not list(__import__("pathlib").Path(f"{folder}/out").glob("*/*/shards/*/*.parquet")):
        time.sleep(0.05)
    cluster.remove_node(lost)

thread = threading.Thread(target=lose)
thread.start()
print(gte("run", f"{folder}/out", "--on", "ray", "--workers", "2"), flush=True)
thread.join()
print(gte("load", f"{folder}/out", "--to", f"{folder}/kb"))
print(gte("status", f"{folder}/out"))

from opengte.bulk.ray import Embedder
cluster.add_node(num_cpus=2)  # Ray Data reads and embeds at the same time
settings = {"model": f"{folder}/model", "precision": "fp32", "engine": "native"}
found = ray.data.read_json(f"{folder}/in").map_batches(
    Embedder, concurrency=1, fn_constructor_kwargs=settings, batch_format="pyarrow"
).take_all()
print(len(found), {len(row["embedding"]) for row in found})
ray.shutdown()
cluster.shutdown()
"""

DAFT = """
import sys
import daft
from daft.functions import embed_text
from opengte.bulk.daft import Provider

folder, _ = sys.argv[1:]
frame = daft.read_json(f"{folder}/in/rows.jsonl")
provider = Provider(precision="fp32", engine="native")
frame = frame.with_column(
    "vector", embed_text(daft.col("text"), provider=provider, model=f"{folder}/model")
)
rows = frame.to_pydict()["vector"]
print(len(rows), {len(row) for row in rows}, round(float(rows[3] @ rows[3]), 4))
"""

SPARK = """
import sys
from pyspark.sql import SparkSession
from opengte.bulk.spark import embedder

folder, _ = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[1]")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "1")
    .getOrCreate()
)
frame = spark.read.json(f"{folder}/in/rows.jsonl").select("id", "text")
embed = embedder(f"{folder}/model", precision="fp32", engine="native")
rows = frame.mapInArrow(embed, "id string, text string, embedding array<float>").collect()
print(len(rows), {len(row.embedding) for row in rows})
spark.stop()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bulk")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    checkpoints.new_model(root / "model", **sizes)
    (root / "in").mkdir()
    lines = [json.dumps({"id": f"r{n}", "text": text}) for n, text in enumerate(TEXTS)]
    (root / "in/rows.jsonl").write_text("\n".join(lines) + "\n")
    return root


def said(program: str, folder: Path) -> str:
    """Return what a program prints that starts an engine."""
    environment = {"PYTHONPATH": PATHS, "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"}
    environment |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), PATHS],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_ray_cluster_of_two_nodes_of_which_one_is_lost(folder):
    found = said(CLUSTER, folder)
    assert "complete: " in found, found
    assert "40 new, 0 changed, 0 unchanged documents" in found
    assert "40 {32}" in found


def test_daft(folder):
    assert said(DAFT, folder).strip() == "40 {32} 1.0"


def test_spark(folder):
    assert "40 {32}" in said(SPARK, folder)
