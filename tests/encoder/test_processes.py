"""Models in threads and processes: forks, spawned processes, daemon threads at exit, pickling."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from opengte import Encoder, Reranker
from opengte.encoder import load_model
from opengte.errors import EngineError
from tests.parity.families import FAMILIES
from tests.support import checkpoints

TEXTS = [f"the cat sat on the mat {'and the dog ' * n}" for n in range(12)]
HAS_FORK = hasattr(os, "fork")
ENGINES = ("native", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    FAMILIES["bert"](folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.load(folder, engine="native", precision="fp32", threads=2)


def run(code: str, *arguments: object, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


FORKS = """
    import faulthandler, os, sys, threading, time
    import numpy as np
    from opengte import Encoder
    folder, engine, children, *texts = sys.argv[1:]
    encoder = Encoder.load(folder, engine=engine, precision="fp32", device="cpu", threads=2)
    stop, began = threading.Event(), threading.Event()
    def busy():
        while not stop.is_set():
            encoder.encode(texts)
            began.set()
    def child():
        faulthandler.dump_traceback_later(60, exit=True)
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
        assert encoder.counters.texts
        grandchild = os.fork()
        if grandchild == 0:
            encoder.encode(texts)
            os._exit(0)
        assert os.waitpid(grandchild, 0)[1] == 0
    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    began.wait()
    expected = encoder.encode(texts)
    failed = 0
    for _ in range(int(children)):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child()
                status = 0
            finally:
                os._exit(status)
        failed += os.waitpid(pid, 0)[1] != 0
    stop.set()
    for thread in threads:
        thread.join()
    print(failed)
"""


@pytest.mark.skipif(not HAS_FORK, reason="this system has no fork")
@pytest.mark.parametrize("engine", ["native", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_child_forked_while_other_threads_encode_computes(folder: Path, engine: str) -> None:
    done = run(FORKS, folder, engine, 20 if engine == "native" else 6, *TEXTS)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


AT_EXIT = """
    import sys, threading
    from opengte import Encoder
    folder, engine, *texts = sys.argv[1:]
    encoder = Encoder.load(folder, engine=engine, device="cpu", precision="fp32", threads=2)
    began = threading.Barrier(4)
    def work():
        began.wait()
        while True:
            encoder.encode(texts)
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    began.wait()
    print("done")
"""


@pytest.mark.parametrize("engine", ["native", pytest.param("torch", marks=pytest.mark.slow)])
def test_daemon_threads_that_encode_at_exit_end_the_process_in_silence(
    folder: Path, engine: str
) -> None:
    for _ in range(8):
        done = run(AT_EXIT, folder, engine, *TEXTS)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_pool_of_threads_gets_the_vectors_of_one(encoder: Encoder) -> None:
    expected = encoder.encode(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: encoder.encode(TEXTS), range(32)):
            np.testing.assert_array_equal(found, expected)


def first_vector(encoder: Encoder) -> list[float]:
    return [float(value) for value in encoder.encode(TEXTS[0])]


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_encoder_is_an_argument_of_a_process(encoder: Encoder, method: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        found = pool.submit(first_vector, encoder).result(timeout=60)
    np.testing.assert_array_equal(np.float32(found), encoder.encode(TEXTS[0]))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pickled_encoder_opens_its_files_again(folder: Path, engine: str) -> None:
    encoder = Encoder.load(folder, engine=engine, device="cpu", threads=1, max_length=40)
    for found in (pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        assert type(found) is Encoder and found.card == encoder.card
        np.testing.assert_array_equal(found.encode(TEXTS[:3]), encoder.encode(TEXTS[:3]))
    again = pickle.loads(pickle.dumps(found))  # a copy can be copied
    assert again.card.fingerprint == encoder.card.fingerprint


def test_a_relative_path_is_pickled_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    kept = pickle.dumps(load_model(folder.name, engine="native", precision="fp32", threads=1))
    monkeypatch.chdir(Path(__file__).parent)
    assert pickle.loads(kept).encode(TEXTS).shape == (len(TEXTS), 48)


def test_a_pickled_reranker_opens_its_files_again(tmp_path: Path) -> None:
    checkpoints.new_model(tmp_path, architectures=["NewForSequenceClassification"], num_labels=1)
    reranker = Reranker.load(tmp_path, engine="native", precision="fp32", threads=1)
    found = pickle.loads(pickle.dumps(reranker))
    assert type(found) is Reranker
    np.testing.assert_array_equal(found.score("a cat", TEXTS), reranker.score("a cat", TEXTS))


def test_what_cannot_be_pickled_says_why(encoder: Encoder) -> None:
    with pytest.raises(EngineError, match=r"an engine cannot be pickled.*Pickle its Encoder"):
        pickle.dumps(encoder.engine)
    in_memory = Encoder(encoder.checkpoint, encoder.engine)
    with pytest.raises(EngineError, match=r"put together in memory\. Save it to a folder"):
        pickle.dumps(in_memory)
