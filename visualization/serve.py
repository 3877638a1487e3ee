"""Serve the dashboard: everything that the experiments found, to be looked at in a browser."""

import inspect
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

import uvicorn

from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import Flag, option_flags, pick
from visualization.app import build_app
from visualization.artifacts import Store


@dataclass(frozen=True)
class ServeOptions:
    """Serve the dashboard until interrupted. It reads the experiments' files, and needs neither a GPU nor torch.

    Args:
        port: Port to listen on; 0 takes a free one.
        host: Address to listen on; the default can be reached from this machine only.
        allow_hosts: Further names by which browsers may reach it, separated by commas, where --host opens it to others.
    """

    port: int = 8000
    host: str = "127.0.0.1"
    allow_hosts: tuple[str, ...] = ()


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(ServeOptions)


def main(**given: Any) -> None:
    """Serve until interrupted.

    Raises:
        UserError: the port or address cannot be had.
    """
    options = pick(ServeOptions, given)
    if not 0 <= options.port < 65536:
        raise UserError("--port is from 0 to 65535")
    app = build_app(Store(), options.host, [name.lower() for name in options.allow_hosts])
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
    listener = listen(options.host, options.port)
    name = f"[{options.host}]" if ":" in options.host else "localhost" if options.host == "127.0.0.1" else options.host
    print(f"traitscope dashboard: http://{name}:{listener.getsockname()[1]}/", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UserError: the port is taken, or the address is none of this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host") from None


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(ServeOptions) or "")
