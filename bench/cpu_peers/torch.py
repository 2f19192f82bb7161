"""OpenGTE itself, on its PyTorch engine."""

from cpu_peers import native


class Peer(native.Peer):
    """An encoder."""

    engine = "torch"
