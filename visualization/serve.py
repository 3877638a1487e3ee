"""Serve the dashboard: everything that the experiments found, to be looked at in a browser.

    python visualization/serve.py

It reads the experiments' files, and needs neither a GPU nor torch.
"""

import runpy
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


from traitscope.utils.errors import UserError
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library
from traitscope.visualization.security import is_open
from traitscope.visualization.server import Server


@dataclass(frozen=True)
class ServeOptions:
    """Where the dashboard is served."""

    port: int = flag(8000, "Port to listen on; 0 takes a free one.")
    host: str = flag("127.0.0.1", "Address to listen on; the default can be reached from this machine only.")
    allow_hosts: tuple[str, ...] = flag(
        (),
        "Further names by which browsers may reach it, separated by commas, where --host opens it to others.",
    )
    token: str = flag(
        "", "Text that whoever wants to chat must show; made up where --host opens the dashboard to others."
    )

    @property
    def name(self) -> str:
        """The name in the link that is printed."""
        if self.allow_hosts and is_open(self.host):
            return self.allow_hosts[0]
        if self.host in ("127.0.0.1", "0.0.0.0", "::"):
            return "localhost"
        return f"[{self.host}]" if ":" in self.host else self.host


def serve(options: ServeOptions) -> None:
    """Serve until interrupted.

    Raises:
        UserError: the port or address cannot be had, or the token is no text.
    """
    if not 0 <= options.port < 65536:
        raise UserError("--port is from 0 to 65535")
    if not options.token.isprintable() or options.token != options.token.strip():
        raise UserError("--token is a text in one line, without blanks at its ends")

    token = options.token or (secrets.token_urlsafe() if is_open(options.host) else "")
    app = build_app(Library(), options.host, [name.lower() for name in options.allow_hosts], token)
    listener, server = listen(options.host, options.port), Server(app)
    welcome(options, listener.getsockname()[1], token)
    server.run(sockets=[listener])


def welcome(options: ServeOptions, port: int, token: str) -> None:
    """Print the link, and what others can do where others can come."""
    shown = f"?token={quote(token, safe='')}" if token else ""
    print(f"traitscope dashboard: http://{options.name}:{port}/{shown}", flush=True)
    if is_open(options.host):
        print(
            "note: everybody who reaches this machine can read all texts and results; to chat, which loads a "
            "model, takes the token of this link",
            flush=True,
        )


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
