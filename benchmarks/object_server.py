"""A real S3-compatible server on this machine: moto's, in a separate process.

python -m benchmarks.object_server    serves until its standard input ends
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# the server accepts any
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "us-east-1"
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def object_server() -> Iterator[str]:
    """Start it on a free port; yield its http address; stop it afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.object_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        # nothing is read once the process has ended
        if server.stdout is None or not (address := server.stdout.readline().strip()):
            raise RuntimeError("moto's server did not start: is the extra `dev` installed?")
        try:
            yield address
        finally:
            server.terminate()


def main() -> None:
    """Bind a free port, print the address, and serve."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()  # ends with the process that started this one, however it ends


if __name__ == "__main__":
    main()
