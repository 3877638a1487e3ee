"""How the server listens, and how it ends: at once, whatever is under way."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from traitscope.utils.stage import interrupts

LAST_WORDS = 0.3  # seconds that answers under way have to come to their end
GIVE_UP = 0.6  # seconds after which the process ends, though a thread may still read a file or run a model
SLOWEST = 10.0  # seconds after which a request that has not arrived is looked at; twice is once too often

_LAST = threading.Lock()


class Connection(H11Protocol):
    """A connection that is closed when its request does not arrive: it would hold its place for ever."""

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look((None, None))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch:
            self._watch.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; what is still being answered has nobody to go to."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _look(self, before: tuple[Any, Any]) -> None:
        now = (self.cycle, self.conn.their_state)
        if now == before and now[1] in (h11.IDLE, h11.SEND_BODY):
            self.transport.close()
        else:
            self._watch = self.loop.call_later(SLOWEST, self._look, now)


class Server(uvicorn.Server):
    """A server that a signal ends within a second."""

    def __init__(self, app: ASGIApp) -> None:
        about: dict[str, Any] = {"log_level": "error", "server_header": False}
        about |= {"http": Connection, "ws": "none", "timeout_graceful_shutdown": LAST_WORDS}
        super().__init__(uvicorn.Config(app, **about))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take over the signals, but for those that the shell told the process to ignore."""
        before = {number: signal.getsignal(number) for number in interrupts.STATUS}
        with super().capture_signals():
            for number, handler in before.items():
                if handler is signal.SIG_IGN and signal.getsignal(number) is not handler:
                    signal.signal(number, signal.SIG_IGN)
            yield

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal ends it."""
        try:
            super().run(sockets)
        except KeyboardInterrupt as interrupt:
            end(interrupt)  # nothing is written here, and the interpreter takes up to two seconds to tidy up

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let open answers come to their end, but not for long."""
        if not self.should_exit:
            for name in ("uvicorn.error", "asyncio"):  # of what is cut off, nobody is told
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            threading.Thread(target=self._end_soon, args=(sig,), daemon=True).start()
        super().handle_exit(sig, frame)

    def _end_soon(self, number: int) -> None:
        """End the process where a thread that cannot be stopped would keep it."""
        time.sleep(GIVE_UP)
        interrupt = interrupts.Stopped() if number == signal.SIGTERM else KeyboardInterrupt()
        end(interrupt)


def end(interrupt: KeyboardInterrupt) -> NoReturn:
    """End the process here and now, with the line and the status of every command that is stopped."""
    line, status = interrupts.explain(interrupt)
    _LAST.acquire()  # whoever comes second says nothing
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        os.write(2, f"\n{line}\n".encode())
    os._exit(status)
