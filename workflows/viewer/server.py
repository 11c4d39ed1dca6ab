"""The server of the page: this machine only, only for who has the token, and nothing but reading.

Paths are names in tables, never of files; nodes, variables and frames are looked up in the project's lists. So no
request names a file, and none can reach one outside of the project.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import select
import socket
from contextlib import nullcontext
from functools import cache
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from skyloom.ops.errors import ConfigError, SkyloomError
from skyloom.workflows.viewer.api import HEAVY, Api
from skyloom.workflows.viewer.look import Look
from skyloom.workflows.viewer.tiles import Tiles

HOST = "127.0.0.1"
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/ahead.js": ("ahead.js", "text/javascript; charset=utf-8"),
    "/overlay.js": ("overlay.js", "text/javascript; charset=utf-8"),
    "/panel.js": ("panel.js", "text/javascript; charset=utf-8"),
    "/openseadragon.js": ("openseadragon.min.js", "text/javascript; charset=utf-8"),
    "/openseadragon.LICENSE.txt": ("openseadragon.LICENSE.txt", "text/plain; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LONGEST = 4096
"""Of an address."""
_log = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """Serves one project.

    Parameters
    ----------
    tiles
        Of the project.
    first
        Id of the result shown first; the last picture.
    port
        0: any that is free.
    token
        What requests must carry; a new random one.

    Raises
    ------
    ConfigError
        If the port cannot be had.
    """

    daemon_threads = True
    # A second server on the port would be asked in place of the first.
    allow_reuse_address = False
    request_queue_size = 64

    def __init__(self, tiles: Tiles, *, first: str | None = None, port: int = 0, token: str = "") -> None:
        self.tiles = tiles
        self.api = Api(tiles, first=first)
        self.token = token or secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as failure:
            reason = getattr(failure, "strerror", None) or "no such port"
            raise ConfigError(f"port {port} of {HOST} cannot be had ({reason}); choose another --port") from None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Address of the page, with the token."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of its cookie: browsers share cookies among the ports of a machine."""
        return f"skyloom-{self.port}"

    def server_close(self) -> None:
        """Stop listening and end the work in the background."""
        super().server_close()
        self.tiles.levels.stop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers hang up whenever they like."""
        _log.debug("request of %s", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """Answers a request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "skyloom"
    sys_version = ""
    timeout = 60
    # Small answers must not wait for more to come.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal."""
        _log.debug(format, *args)

    def do_GET(self) -> None:
        """Answer what the tables of paths have, to who may ask."""
        try:
            self._get()
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        except SkyloomError as problem:
            status = 400 if isinstance(problem, ConfigError) else 409
            self._json({"error": " ".join(str(problem).split())}, status=status)
        except Exception:
            _log.exception("request %s", self.path)
            self._json({"error": "the viewer failed at this; its terminal says how"}, status=500)

    def _refuse(self) -> None:
        self.close_connection = True
        self._send(405, b"only reading\n", "text/plain", headers={"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _get(self) -> None:
        # A page elsewhere can have its own name point here (DNS rebinding); it cannot choose the header.
        if self.headers.get_all("Host") not in [[f"{h}:{self.server.port}"] for h in (HOST, "localhost")]:
            self._send(403, b"not this host\n", "text/plain")
            return
        if len(self.path) > _LONGEST:
            self._send(414, b"too long\n", "text/plain")
            return
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        token = query.pop("token", "")
        if not self._known(token):
            self._send(
                403, b"open the address that skyloom view has printed: it carries the token\n", "text/plain"
            )
            return
        if parts.path == "/" and token:
            rest = f"?{urlencode(query)}" if query else ""
            cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            self._send(303, b"", "text/plain", headers={"Location": f"/{rest}", "Set-Cookie": cookie})
        elif parts.path in PAGE:
            name, kind = PAGE[parts.path]
            self._send(200, _asset(name), kind, headers={"Cache-Control": "no-cache"})
        elif parts.path == "/tile":
            self._tile(query)
        elif parts.path in self.server.api.answers:
            # The pointer must not wait for tiles.
            with self.server.tiles.busy if parts.path in HEAVY else nullcontext():
                answer = self.server.api.answers[parts.path](query)
            self._json(answer)
        else:
            self._send(404, b"no such page\n", "text/plain")

    def _known(self, token: str) -> bool:
        if token:
            return hmac.compare_digest(token.encode(), self.server.token.encode())
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self.server.cookie)
        return found is not None and hmac.compare_digest(found.value.encode(), self.server.token.encode())

    def _tile(self, query: dict[str, str]) -> None:
        tiles = self.server.tiles
        try:
            factor, column, row = (int(query.get(n, "")) for n in ("factor", "column", "row"))
        except ValueError:
            raise ConfigError("a tile has a factor, a column and a row, whole numbers") from None
        with tiles.busy:
            # Who has zoomed on no longer waits for this one.
            if self._gone():
                self.close_connection = True
                return
            layer = tiles.layer(query.get("layer", ""))
            like = tiles.layer(query["like"]) if query.get("like") else None
            data = tiles.png(layer, factor, column, row, Look.of(query), like=like)
        # The address names the state of the pixels, and the port is new each time.
        self._send(200, data, "image/png", headers={"Cache-Control": "private, max-age=600"})

    def _gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        if not readable:
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _json(self, answer: Any, *, status: int = 200) -> None:
        data = json.dumps(answer, allow_nan=False).encode()
        self._send(status, data, "application/json", headers={"Cache-Control": "no-store"})

    def _send(self, status: int, data: bytes, kind: str, *, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@cache
def _asset(name: str) -> bytes:
    return (files("skyloom.workflows.viewer") / "page" / name).read_bytes()
