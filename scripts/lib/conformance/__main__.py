"""Sends the API whatever its own document allows, and much that it does not, and holds every answer against that document.

    python3 -m conformance GRANULE DOCUMENT SCHEMATHESIS

    schemathesis ── TCP ── bridge ── Unix socket ── granule, started anew after each vmm.shutdown
         └─ hooks.py: before every other request there is a VM, as far as one can be created here

A process that ends otherwise than by vmm.shutdown has crashed.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# Requests that are sent at least; fewer mean that the document or the tool has lost something.
ENOUGH = 5000


class Monitor:
    """The process under test."""

    def __init__(self, program: str, api: Path):
        self.command = [program, "--api-socket", f"path={api}"]
        self.crash: str | None = None
        self.over = False
        self.process = subprocess.Popen(self.command)
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()

    def watch(self) -> None:
        while True:
            status = self.process.wait()
            if self.over:
                return
            if status != 0:
                self.crash = self.crash or f"granule ended with status {status}"
            self.process = subprocess.Popen(self.command)

    def end(self) -> None:
        self.over = True
        self.process.terminate()
        self.watcher.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def bridge(listener: socket.socket, api: Path) -> None:
    """Connects each client of the TCP port to the Unix socket."""
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(api))
        except OSError:
            client.close()
            continue
        for ends in ((client, server), (server, client)):
            threading.Thread(target=pump, args=ends, daemon=True).start()


def main(granule: str, document: str, schemathesis: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        api = Path(folder) / "api.sock"
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        threading.Thread(target=bridge, args=(listener, api), daemon=True).start()
        monitor = Monitor(granule, api)
        command = [
            schemathesis, "run", document, "--url", f"http://127.0.0.1:{port}/api/v1",
            "--phases", "examples,coverage,fuzzing", "--max-examples", "60", "--seed", "2022", "--continue-on-failure",
            # A body of the right shape may still name a file that is not there; and clients send null for what they leave out.
            "--exclude-checks", "positive_data_acceptance,negative_data_rejection",
            "--no-color",
        ]
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": "conformance.hooks",
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "CONFORMANCE_API": str(api),
        }
        try:
            run = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)
        finally:
            monitor.end()
    print(run.stdout)
    sent = re.search(r"(\d+) generated", run.stdout)
    if monitor.crash:
        print(monitor.crash)
    if sent is None or int(sent[1]) < ENOUGH:
        print(f"fewer than {ENOUGH} requests were sent")
        return 1
    return 1 if run.returncode or monitor.crash else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
