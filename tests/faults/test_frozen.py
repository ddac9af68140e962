"""Time in which a process does not run, as when a laptop's lid is closed, is nobody's fault."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

from tests.conftest import DaemonFactory
from tests.support import faults
from tests.support.exchanges import blob, manifest
from tests.support.models import generate
from tests.support.registry import FaultRegistry

PATIENCE = 3
ASLEEP = PATIENCE + 1.5


def sleeps(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(ASLEEP)
    os.kill(pid, signal.SIGCONT)


def test_a_pull_from_a_healthy_source_goes_on_after_a_sleep(
    daemon_factory: DaemonFactory, registry: FaultRegistry
) -> None:
    model = generate(12 << 20)
    name = registry.add(model, "library/large")
    registry.fail(blob(model.weights), faults.Slow(8e6), times=None)
    daemon = daemon_factory(environment={"TOWLINE_STALL_TIMEOUT": str(PATIENCE)})
    with daemon.pulling(name) as stream:
        stream.until_completed(2 << 20)
        sleeps(daemon.pid)
        stream.finish(model=model)


def test_a_registry_that_was_about_to_answer_is_not_given_up_after_a_sleep(
    daemon_factory: DaemonFactory, registry: FaultRegistry
) -> None:
    model = generate(1 << 20)
    name = registry.add(model, "library/tiny")
    held = faults.Stall()
    registry.fail(manifest(), held, times=1)
    daemon = daemon_factory(environment={"TOWLINE_STALL_TIMEOUT": str(PATIENCE)})

    def sleeps_before_the_answer() -> None:
        held.reached.wait(20)
        time.sleep(0.6)  # it looks at the time, twice
        sleeps(daemon.pid)
        time.sleep(0.3)  # it looks before the answer comes
        held.release()

    asleep = threading.Thread(target=sleeps_before_the_answer)
    asleep.start()
    daemon.pull(name, model=model)
    asleep.join()
    assert len(registry.exchanges(manifest())) == 1


CLIENT = """
import sys
from towline.cli import daemon
from towline.cli.address import Address

daemon.SILENCE = float(sys.argv[2])
for event in daemon.Daemon(Address(port=int(sys.argv[1])), daemon.Info("1", "/store", "1:1")).pull("llama3.2"):
    print(event.status, flush=True)
"""


def test_a_command_does_not_call_the_daemon_dead_that_slept_beside_it() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = [sys.executable, "-c", CLIENT, str(listener.getsockname()[1]), str(PATIENCE)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while not request.endswith(b"}"):
                    request += connection.recv(65536)
                connection.sendall(head + b'{"status": "pulling manifest"}\n')
                assert client.stdout
                assert client.stdout.readline() == "pulling manifest\n"
                time.sleep(0.3)  # it waits for the next line
                sleeps(client.pid)
                time.sleep(0.3)  # the daemon wakes up later
                connection.sendall(b'{"status": "success"}\n')
            out, err = client.communicate(timeout=20)
    assert (client.returncode, out) == (0, "success\n"), err
