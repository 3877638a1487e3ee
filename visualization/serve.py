"""Serve the dashboard: everything that the experiments found, to be looked at in a browser.

    python visualization/serve.py

It reads the experiments' files, and needs neither a GPU nor torch.
"""

import runpy
import socket
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import uvicorn

from traitscope.utils.errors import UserError
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library


@dataclass(frozen=True)
class ServeOptions:
    """Where the dashboard is served."""

    port: int = flag(8000, "Port to listen on; 0 takes a free one.")
    host: str = flag("127.0.0.1", "Address to listen on; the default can be reached from this machine only.")
    allow_hosts: tuple[str, ...] = flag(
        (),
        "Further names by which browsers may reach it, separated by commas, where --host opens it to others.",
    )


def serve(options: ServeOptions) -> None:
    """Serve until interrupted.

    Raises:
        UserError: the port or address cannot be had.
    """
    if not 0 <= options.port < 65536:
        raise UserError("--port is from 0 to 65535")

    app = build_app(Library(), options.host, [name.lower() for name in options.allow_hosts])
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
    listener = listen(options.host, options.port)
    name = (
        f"[{options.host}]"
        if ":" in options.host
        else "localhost"
        if options.host == "127.0.0.1"
        else options.host
    )
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
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host"
        ) from None


if __name__ == "__main__":
    command(serve)
