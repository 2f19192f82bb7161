"""Kill a run with SIGKILL at random moments until it is through: `python -m
tests.support.train_kill FOLDER KILLS SLOW`. Prints how often it was killed, and how often inside a
checkpoint's writing.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tests.support import train_run

STEPS = 40


def main(folder: Path, kills: int, slow: float) -> None:
    torch.set_num_threads(1)
    generator = random.Random(7)
    killed, inside = 0, 0
    while True:
        child = os.fork()
        if not child:
            train_run.slow_writes(slow)
            train_run.run(folder, resume=True, steps=STEPS, save_every=1)
            os._exit(0)
        if killed < kills:
            time.sleep(generator.uniform(0.0, 0.5))
            writing = any(folder.glob(".partial-*"))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            inside += writing
        else:
            assert os.WEXITSTATUS(status) == 0, status
            break
    sys.stdout.write(f"{killed} {inside}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
