"""An attack on the dashboard: a real server, a hostile root, requests at random, and a browser that looks."""

import signal
import socket
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from dashboard_attacks import MALFORMED, Attacker
from dashboard_browser import CHROMIUM, running_browser
from dashboard_hostile import CANARY, NAME, make_hostile
from dashboard_server import OPTIMISM, DashboardServer
from playwright.sync_api import Page

PATIENCE = 10.0  # seconds after which an answer counts as a hang
CROWD, SLOW, WORKERS = 200, 50, 8
TOKEN = "campaign-token"
VIEWS = [
    *(f"#/overview?experiment={quote(name)}" for name in ("demo", "leaky", NAME, "a\nb")),
    f"#/extraction?experiment=demo&trait={OPTIMISM}&part=scenarios",
    f"#/steering?experiment=demo&trait={OPTIMISM}",
    "#/dynamics?experiment=demo&set=skies&other=twin&pid=marked",
    *("#/groups?experiment=demo&set=skies", "#/chat?experiment=demo", "#/api"),
    f"#/extraction?experiment=bracket&trait={quote(f'mood/{NAME}')}",
    f"#/overview?experiment={quote(NAME + '&trait=' + NAME)}",
    f"?token={quote(NAME)}",
    *(
        f"api/experiments/demo/{page}?trait={OPTIMISM}"
        for page in ("vetting", "card", "steering", quote(NAME))
    ),
]


def run_attacks(seed: int, requests: int) -> dict:
    """Attack a dashboard, and return what came of it, in plain figures.

    Args:
        seed: Decides what is sent.
        requests: How many requests are drawn at random; 200 at once come on top.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        root = make_hostile(Path(folder) / "hostile")
        running = held.enter_context(attacked(root))
        attacker = Attacker(seed, urlsplit(running.url).netloc, TOKEN)
        warm = attacker.raw("/api/experiments/demo/chat", headers=attacker.shown())
        exchange(attacker.host, warm, 120)  # torch is imported

        begun = time.monotonic()
        found = send_all(attacker, requests)
        found |= {"seconds": round(time.monotonic() - begun, 1)}
        found |= crowd(attacker) | slow_connections(attacker) | look(running.url)
        return found | interrupt(running, attacker)


@contextmanager
def attacked(root: Path):
    """Run the dashboard on a root."""
    running = DashboardServer(root, "--token", TOKEN, has_torch=True).__enter__()
    running.url = running.url.partition("?")[0]
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.process.kill()
        running.process.wait(10)
        running.process.stdout.close()


def exchange(host: str, sent: bytes, patience: float = PATIENCE) -> tuple[int, bytes, float]:
    """Send bytes and read the answer to its end. Returns its status (0: hung up without one, −1: none came in
    time), its bytes and the seconds.
    """
    begun, answer = time.monotonic(), b""
    name, _, port = host.rpartition(":")
    try:
        with socket.create_connection((name, int(port)), patience) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up on what is too long
                connection.sendall(sent)
            if sent in MALFORMED:  # some of these are never whole: nobody has to wait for more
                answer += first_part(connection)
                connection.settimeout(patience)
            while part := connection.recv(1 << 16):
                answer += part
                if time.monotonic() - begun > patience:
                    return -1, answer, time.monotonic() - begun
    except TimeoutError:
        return -1, answer, time.monotonic() - begun
    except OSError:
        pass
    return status_of(answer), answer, time.monotonic() - begun


def first_part(connection: socket.socket) -> bytes:
    """Return what is answered at once; say that nothing more comes where nothing is."""
    connection.settimeout(0.5)
    try:
        return connection.recv(1 << 16)
    except TimeoutError:
        connection.shutdown(socket.SHUT_WR)
        return b""


def status_of(answer: bytes) -> int:
    """Return the status of an answer, 0 where there is none."""
    words = answer[:20].split(b" ")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def send_all(attacker: Attacker, requests: int) -> dict:
    """Send requests drawn at random, a few at a time, and count what became of them."""
    drawn = [attacker.draw() for _ in range(requests)]
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = list(pool.map(lambda request: exchange(attacker.host, request[0]), drawn))

    classes = Counter(max(status, 0) // 100 for status, _, _ in answers if status >= 0)
    kept_out = [
        status for (status, _, _), (_, may_enter) in zip(answers, drawn, strict=True) if not may_enter
    ]
    faults = [
        request[:200].decode("latin-1")
        for (status, answer, _), (request, _) in zip(answers, drawn, strict=True)
        if status >= 500 or status == -1 or (CANARY.encode() in answer and CANARY.encode() not in request)
    ]
    return {
        "requests": len(drawn),
        **{f"answered_{n}xx": classes[n] for n in (2, 3, 4, 5)},
        "hung_up": classes[0],
        "hangs": sum(status == -1 for status, _, _ in answers),
        "slowest_s": round(max(seconds for _, _, seconds in answers), 2),
        "kept_out": len(kept_out),
        "let_in": sum(200 <= status < 400 for status in kept_out),
        "canaries": sum(
            CANARY.encode() in answer and CANARY.encode() not in request
            for (_, answer, _), (request, _) in zip(answers, drawn, strict=True)
        ),
        "faults": faults[:5],
    }


def crowd(attacker: Attacker) -> dict:
    """Ask 200 times at once."""
    pages = ["/api/experiments", f"/api/experiments/demo/vetting?trait={OPTIMISM}", "/", "/main.js"]
    sent = [attacker.raw(pages[i % len(pages)]) for i in range(CROWD)]
    with ThreadPoolExecutor(CROWD) as pool:
        answers = list(pool.map(lambda request: exchange(attacker.host, request, 60), sent))
    answered = sum(status == 200 for status, _, _ in answers)
    return {"crowd_answered": answered, "crowd_slowest_s": round(max(s for _, _, s in answers), 2)}


def slow_connections(attacker: Attacker) -> dict:
    """Hold many connections with half a request each, and ask for a page beside them."""
    with ExitStack() as held:
        for i in range(SLOW):
            connection = held.enter_context(opened(attacker.host))
            connection.sendall(attacker.raw("/")[: 4 + i])
        status, _, seconds = exchange(attacker.host, attacker.raw("/api/experiments"))
    return {"beside_slow_status": status, "beside_slow_s": round(seconds, 2)}


def opened(host: str) -> socket.socket:
    """Return a connection."""
    name, _, port = host.rpartition(":")
    return socket.create_connection((name, int(port)), PATIENCE)


def look(url: str) -> dict:
    """Open every view in a browser, and tell whether a script of the texts ran; None without a browser."""
    if CHROMIUM is None:
        return {"views": 0, "views_failed": None, "scripts_run": None, "dialogs": None}

    ran, failed, dialogs = 0, 0, []
    with running_browser() as browser:
        page = browser.new_page()
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(f"{url}?token={TOKEN}")
        for view in VIEWS:
            page.goto("about:blank")
            page.goto(url + view)
            if view.startswith("#"):
                wait_until_shown(page)
            ran += bool(
                page.evaluate("window.__pwned === 1 || !!document.querySelector('main script, main img')")
            )
            failed += page.query_selector(".state.failed") is not None
    return {"views": len(VIEWS), "views_failed": failed, "scripts_run": ran, "dialogs": len(dialogs)}


def wait_until_shown(page: Page) -> None:
    """Wait for a view and its parts; what is drawn when it comes into sight is brought there."""
    page.wait_for_selector("main:not([aria-busy])")
    page.wait_for_selector("[aria-busy]", state="detached")
    areas = page.locator(".plot-area")
    for i in range(areas.count()):
        areas.nth(i).scroll_into_view_if_needed()
        areas.nth(i).locator(".main-svg").first.wait_for()


def interrupt(running: DashboardServer, attacker: Attacker) -> dict:
    """Stop the server while a chat streams and connections are open, and say how long that took."""
    asked = b'{"messages": [{"role": "user", "content": "Talk."}], "max_new_tokens": 400, "temperature": 1}'
    chat = attacker.raw("/api/experiments/demo/chat", "POST", attacker.shown(), asked)
    with opened(attacker.host) as stream, opened(attacker.host) as idle:
        stream.settimeout(60)
        stream.sendall(chat)
        is_streaming = b"200 OK" in stream.recv(1000)
        idle.sendall(b"GET / HT")
        is_alive, begun = running.process.poll() is None, time.monotonic()
        running.process.send_signal(signal.SIGINT)
        status = running.process.wait(30)
        seconds = time.monotonic() - begun

    lines = [line for line in running.process.stdout.read().splitlines() if line.strip()]
    traces = sum(line.startswith("Traceback") for line in lines)
    return {
        "was_alive": is_alive,
        "was_streaming": is_streaming,
        "ctrl_c_s": round(seconds, 2),
        "exit_status": status,
        "tracebacks": traces,
    }
