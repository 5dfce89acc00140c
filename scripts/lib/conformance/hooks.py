"""What is done around each request of schemathesis."""

import http.client
import itertools
import json
import os
import socket
import time

import schemathesis

API = os.environ["CONFORMANCE_API"]
# Any file will do: nothing is booted here.
BODY = json.dumps({"payload": {"kernel": API}, "memory": {"size": 1 << 28}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1}})
# How long a monitor may take to be there again.
LIMIT = 60

turns = itertools.count()
# The process that a vmm.shutdown is sent to.
before: list[int] = []


class Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(API)


def ask(method: str, name: str, body: str | None = None) -> bytes:
    connection = Connection("localhost", timeout=LIMIT)
    try:
        connection.request(method, f"/api/v1/{name}", body)
        return connection.getresponse().read()
    finally:
        connection.close()


def pid() -> int:
    """The process that answers, as soon as one does."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            return json.loads(ask("GET", "vmm.ping"))["pid"]
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    if case.path == "/vmm.shutdown":
        before[:] = [pid()]
    elif next(turns) % 2:
        ask("PUT", "vm.create", BODY)
    else:
        ask("PUT", "vm.delete")


@schemathesis.hook
def after_call(context, case, response) -> None:
    if case.path == "/vmm.shutdown" and response.status_code == 200:
        while [pid()] == before:
            time.sleep(0.01)
