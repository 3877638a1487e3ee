"""Serve the dashboard: everything that the experiments found, to be looked at in a browser."""

import inspect
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
    config = uvicorn.Config(app, host=options.host, port=options.port, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
    try:
        socket = config.bind_socket()
    except SystemExit:  # uvicorn has printed why
        raise UserError(f"cannot listen on {options.host}:{options.port}; choose another --port or --host") from None
    host, port = socket.getsockname()[:2]
    print(f"traitscope dashboard: http://{'localhost' if host == '127.0.0.1' else f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(ServeOptions) or "")
