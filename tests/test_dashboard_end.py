"""The dashboard ends when it is told to, whatever is open; and what does not arrive is not waited for."""

import signal
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from dashboard_server import DashboardServer

from traitscope.visualization import serve, server
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "experiments/e").mkdir(parents=True)
    return tmp_path


def opened(url: str, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", urlsplit(url).port))
    connection.sendall(sent)
    return connection


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_within_a_second_whatever_is_open(root, number, status):
    running = DashboardServer(root).__enter__()
    get = f"GET /api/experiments HTTP/1.1\r\nHost: {urlsplit(running.url).netloc}\r\n\r\n".encode()
    held = [opened(running.url, sent) for sent in (get, get[:9], b"", get.replace(b"GET", b"POST", 1)[:-2])]
    assert held[0].recv(20).startswith(b"HTTP/1.1 200")

    start = time.monotonic()
    running.process.send_signal(number)
    assert running.process.wait(10) == status
    assert time.monotonic() - start < 1
    said = running.process.stdout.read()
    what = "interrupted" if number == signal.SIGINT else "terminated"
    assert said.strip().splitlines() == [
        f"{what}; run the same command again and it goes on where it stopped"
    ]


STUCK = """
import sys, threading, time
sys.argv = ["serve.py", "--port", "0"]
from traitscope.visualization import library
library.Library.experiments = lambda self: time.sleep(60)
import runpy
runpy.run_path({path!r}, run_name="__main__")
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_thread_that_cannot_be_stopped_does_not_keep_it(root, number, status, tmp_path):
    script = tmp_path / "stuck.py"
    script.write_text(STUCK.format(path=str(Path(serve.__file__))))
    running = DashboardServer(root, command=[sys.executable, "-c", script.read_text()]).__enter__()
    get = f"GET /api/experiments HTTP/1.1\r\nHost: {urlsplit(running.url).netloc}\r\n\r\n".encode()
    held = opened(running.url, get)
    time.sleep(0.3)

    start = time.monotonic()
    running.process.send_signal(number)
    assert running.process.wait(10) == status
    assert time.monotonic() - start < 1.2
    assert len(running.process.stdout.read().strip().splitlines()) == 1
    held.close()


def test_a_request_that_does_not_arrive_is_given_up(root, monkeypatch):
    monkeypatch.setattr(server, "SLOWEST", 0.2)
    running = server.Server(build_app(Library(root)))
    listener = serve.listen("127.0.0.1", 0)
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    body = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc"
    for sent in (b"", b"GET / HT", body):
        connection = opened(url, sent)
        connection.settimeout(5)
        while connection.recv(1000):
            pass  # it may answer before it hangs up
    running.should_exit = True
    thread.join(5)
    assert not thread.is_alive()
