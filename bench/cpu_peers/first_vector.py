"""Print a line as soon as the first vector is there, then wait for the input to end.

    python -m cpu_peers.first_vector LIBRARY OPTIONS

OPTIONS is the JSON that a worker loads with. Whoever starts this takes the time.
"""

import json
import os
import sys


def main() -> None:
    """Load and encode one text, importing nothing but what that takes."""
    answers = os.dup(1)
    os.dup2(2, 1)
    library, options = sys.argv[1], json.loads(sys.argv[2])
    if library == "sbert":
        from cpu_peers.sbert import Peer as SentenceTransformersPeer

        SentenceTransformersPeer(options).encode(["hello world"])
    else:
        from opengte import Encoder

        encoder = Encoder.load(
            options["folder"],
            engine=library,
            precision=options["precision"],
            threads=options["threads"],
        )
        encoder.encode("hello world")
    os.write(answers, b"ready\n")
    sys.stdin.read()


if __name__ == "__main__":
    main()
