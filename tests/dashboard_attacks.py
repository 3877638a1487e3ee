"""Requests that no browser would send, drawn at random: each is the bytes of one connection."""

import random
from collections.abc import Callable
from urllib.parse import quote

from dashboard_hostile import CANARY, NAME, SCRIPT
from dashboard_server import FORMALITY, OPTIMISM

EXPERIMENTS = (
    "demo",
    "leaky",
    "lured",
    "bracket",
    "number",
    "deep",
    NAME,
    "a\nb",
    "a:b",
    " blank ",
    "half",
    "huge",
    "pipe",
)
EXPERIMENTS += (
    "device",
    "secret",
    "folder",
    "circle",
    "linked",
    "hidden",
    "up",
    "abroad",
    "none",
    "..",
    ".sync",
)
ROUTES = {  # page of an experiment → what it takes
    "": (),
    "card": ("trait",),
    "vetting": ("trait",),
    "vectors": ("trait",),
    "similarity/methods": ("trait", "layer"),
    "similarity/traits": ("method", "layer"),
    "steering": ("trait",),
    "steering/texts": ("trait", "part", "arm"),
    "steering/judging": ("trait",),
    "rollouts": ("trait",),
    "rollouts/texts": ("trait", "variant"),
    "prompt-sets": (),
    "prompts": ("prompt_set",),
    "course": ("prompt_set", "prompt", "scale", "window", "traits", "vector"),
    "comparison": ("prompt_set", "prompt", "other"),
    "groups/stored": ("prompt_set", "by"),
    "groups/by-field": ("prompt_set", "by", "first", "second", "over", "scale"),
    "groups/values": ("prompt_set", "trait", "method", "layer"),
    "chat": (),
}
GOOD = {
    **{
        "trait": OPTIMISM,
        "method": "mean_diff",
        "layer": "12",
        "part": "dev",
        "arm": "unsteered",
        "variant": "plain",
        "over": "all",
    },
    **{"prompt_set": "skies", "prompt": "grim-0", "other": "twin", "by": "kind", "first": "grim"},
    **{"second": "sunny", "scale": "raw", "window": "3", "traits": FORMALITY, "vector": "mean_diff 12"},
}
UP = (
    "../",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%5c",
    "..\\",
    "....//",
    "%252e%252e%252f",
    "..%c0%af",
    "..;/",
)
GOALS = ("etc/passwd", ".env", "experiments/secret/config.json", "serve.py", "hostile.outside/secret.json")
NONSENSE = (
    "",
    "%00",
    "%ff",
    "%ed%a0%80",
    "%0d%0aX:1",
    "NaN",
    "1e400",
    "-1",
    "9" * 400,
    "%",
    "%zz",
    "x" * 3000,
)
NONSENSE += (
    *(quote(text) for text in (SCRIPT, NAME, CANARY, "javascript:alert(1)", "' or 1=1")),
    "[]",
    "a/b/c",
)
METHODS = ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "HEAD", "PROPFIND", "X", "get")
FOREIGN = ("evil.example", "127.0.0.1.evil.example", "[::1", "a b", "localhost:x", "", "192.168.1.9", "\xff")
NUMBERS = ("NaN", "Infinity", "1e400", "-0", "-3", "9" * 400, "null", "[]", "{}", '"x"', "true")
MALFORMED = (
    *(
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM",
    ),
    *(
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
    ),
    *(
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00" * 300,
        b"GET /" + b"a" * 70_000,
    ),
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
)

Headers = dict[str, str]


class Attacker:
    """Draws requests; those of `may_enter` False must not be let in."""

    def __init__(self, seed: int, host: str, token: str) -> None:
        self.rng, self.host, self.token = random.Random(seed), host, token
        self.kinds: tuple[Callable[[], tuple[bytes, bool]], ...] = (
            *(self.damaged, self.damaged, self.damaged, self.nonsense, self.climb, self.chat),
            *(self.foreign, self.method, self.body, self.flood, self.malformed, self.wrong_token),
        )

    def draw(self) -> tuple[bytes, bool]:
        """Return a request, and whether it may be answered with content."""
        return self.rng.choice(self.kinds)()

    def raw(
        self, target: str, method: str = "GET", headers: Headers | None = None, body: bytes = b""
    ) -> bytes:
        """Return the bytes of a request."""
        sent = {"Host": self.host, "Connection": "close"} | (headers or {})
        if body or method == "POST":
            sent = {"Content-Length": str(len(body)), "Content-Type": "application/json"} | sent
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body

    def shown(self) -> Headers:
        """Return the header that shows the token."""
        return {"Authorization": f"Bearer {self.token}"}

    def address(self, spoil: float) -> str:
        """Return a page of the API; every part of its query is nonsense with a probability."""
        page = self.rng.choice(list(ROUTES))
        query = {name: quote(GOOD[name]) for name in ROUTES[page]}
        spoilt = {n: self.rng.choice(NONSENSE) if self.rng.random() < spoil else v for n, v in query.items()}
        name = "demo" if self.rng.random() < 0.4 else self.rng.choice(EXPERIMENTS)
        experiment = quote(name, safe="")
        place = f"/api/experiments/{experiment}" + (f"/{page}" if page else "")
        return place + "?" + "&".join(f"{name}={value}" for name, value in spoilt.items())

    def damaged(self) -> tuple[bytes, bool]:
        target = self.address(0.0) if self.rng.random() < 0.9 else "/api/experiments"
        return self.raw(target, headers=self.shown()), True

    def nonsense(self) -> tuple[bytes, bool]:
        return self.raw(self.address(0.6), headers=self.shown()), True

    def climb(self) -> tuple[bytes, bool]:
        way = self.rng.choice(UP) * self.rng.randint(1, 8) + self.rng.choice(GOALS)
        if self.rng.random() < 0.5:
            base = self.rng.choice(("/", "/css/", "/views/", "/api/", "/api/experiments/demo/", "//", "/%2f"))
            return self.raw(base + way), True
        name = self.rng.choice(("trait", "prompt_set", "prompt", "other", "by"))
        page = self.rng.choice([page for page, names in ROUTES.items() if name in names])
        rest = "&".join(f"{n}={quote(GOOD[n])}" for n in ROUTES[page] if n != name)
        return self.raw(f"/api/experiments/demo/{page}?{rest}&{name}={quote(way, safe='%')}"), True

    def foreign(self) -> tuple[bytes, bool]:
        other = self.rng.choice(FOREIGN)
        headers = self.rng.choice(
            [{"Host": other}, {"Origin": f"http://{other or 'null'}"}, {"Sec-Fetch-Site": "cross-site"}]
        )
        return self.raw(self.rng.choice(("/", "/api/experiments", self.address(0.0))), headers=headers), False

    def method(self) -> tuple[bytes, bool]:
        body = b"x" * self.rng.choice((0, 10))
        headers = {"Content-Length": str(len(body))} | (self.shown() if self.rng.random() < 0.5 else {})
        return self.raw(self.address(0.2), self.rng.choice(METHODS), headers, body), True

    def chat(self) -> tuple[bytes, bool]:
        field = self.rng.choice(("temperature", "seed", "max_new_tokens", "doses", "messages", "x"))
        value = self.rng.choice(
            (*NUMBERS, '{"\\ud800": 9}', f'{{"{OPTIMISM}": NaN}}', '{"no/such": 0.1}', "[" * 9000)
        )
        text = self.rng.choice(("x", "\\ud800", "\\u0000", " ", "x" * 17_000))
        said = f'{{"messages": [{{"role": "user", "content": "{text}"}}], "{field}": {value}, "max_new_tokens": 0}}'
        place = f"/api/experiments/{quote(self.rng.choice(EXPERIMENTS), safe='')}/chat"
        kind = self.rng.choice(
            ("application/json", "text/plain", "multipart/form-data", "application/json; charset=x")
        )
        return self.raw(place, "POST", self.shown() | {"Content-Type": kind}, said.encode()), True

    def body(self) -> tuple[bytes, bool]:
        place, size = "/api/experiments/demo/chat", self.rng.choice((0, 101_000, 1_000_000))
        if self.rng.random() < 0.5:
            chunks = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
            rest = b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n" if size else b"zz\r\n"
            head = f"POST {place} HTTP/1.1\r\n" + "".join(
                f"{n}: {v}\r\n"
                for n, v in ({"Host": self.host, "Connection": "close"} | self.shown() | chunks).items()
            )
            return head.encode() + b"\r\n" + rest, False
        return self.raw(place, "POST", self.shown(), b"[" * size), False

    def flood(self) -> tuple[bytes, bool]:
        many = self.rng.choice((100, 1000, 5000))
        return self.raw("/api/experiments", headers={f"X-{i}": "y" * 20 for i in range(many)}), True

    def malformed(self) -> tuple[bytes, bool]:
        return self.rng.choice(MALFORMED), True

    def wrong_token(self) -> tuple[bytes, bool]:
        wrong = self.rng.choice(("", "x", self.token[:-1], f"{self.token}x", "\xff", "%00", "x" * 5000))
        header = self.rng.choice(("Authorization", "Cookie"))
        value = f"Bearer {wrong}" if header == "Authorization" else f"traitscope_token={wrong}"
        target, method = self.rng.choice(
            [
                ("/api/experiments/demo/chat", "GET"),
                ("/api/experiments/demo/chat", "POST"),
                (f"/?token={wrong}", "GET"),
            ]
        )
        return self.raw(target.replace("\xff", "%ff"), method, {header: value}), False
