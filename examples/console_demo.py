"""A console with an identity provider on loopback that signs in whoever asks as an operator.

`make console-demo` runs it. Open the address that it prints, sign in, make a key, and call the
server with it. Everything is removed when it ends.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the provider is a part of the tests

from tests.support.oidc_provider import CLIENT, SECRET, provider


def main() -> None:
    """Serve until Ctrl-C."""
    port = os.environ.get("OPENGTE_PORT", "8080")
    with tempfile.TemporaryDirectory() as state, provider() as identity:
        identity.user = {"sub": "1", "name": "Ada Lovelace", "groups": ["staff", "search"]}
        environment = {
            **os.environ,
            "OPENGTE_STATE_DIR": state,
            "OPENGTE_OIDC_CLIENT_SECRET": SECRET,
        }
        print(f"Sign in at http://127.0.0.1:{port}/console", flush=True)
        command = [
            *(sys.executable, "-c", "from opengte.cli import main; main()", "serve", "--console"),
            *("--port", port, "--currency", "EUR", "--price", "0.02", "--free-credit", "5"),
            *("--hourly-cost", "0.09", "--oidc-issuer", identity.issuer),
            *("--oidc-client-id", CLIENT, "--oidc-operators", "staff", "--oidc-team", "search"),
        ]
        server = subprocess.Popen(command, env=environment)
        try:
            server.wait()
        except KeyboardInterrupt:
            server.wait()


if __name__ == "__main__":
    main()
