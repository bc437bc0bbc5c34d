"""The server of the page: for this machine only, and with nothing fetched from anywhere else.

It listens on the loopback address, answers no request that comes by another host's name or from another site's page,
and tells the browser to load nothing from elsewhere. Whoever has an account on the machine can open the page.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import webbrowser
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from lunar.errors import LunarError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
FIRST_PORT, PORTS = 7860, 20
"""Where Gradio's pages usually are, and how many ports from there on are tried where none is asked for."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
        "form-action 'self'; base-uri 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@contextlib.contextmanager
def free_socket(port: int | None) -> Iterator[socket.socket]:
    """A socket on the loopback address at this port, or at the first free one; closed again at the end.

    Raises LunarError where the port, or every port that was tried, is taken or not to be had.
    """
    tried = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS)
    for one in tried:
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":  # there it would let two programs share a port
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((HOST, one))
            taken.listen()
        except OSError as error:
            taken.close()
            failed = error
            continue
        with taken:
            yield taken
        return
    where = f"Port {port}" if port is not None else f"A port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise LunarError(
        f"{where} was expected to be free, but it cannot be listened on ({failed.strerror}): give another with --port."
    )


def run(blocks: Any, taken: socket.socket, *, browser: bool) -> None:
    """Serve the page until it is broken off, and open it where there is a screen."""
    import uvicorn

    address = f"http://{HOST}:{taken.getsockname()[1]}"
    print(f"The page is at {address}, for this machine only. Ctrl-C ends it.", flush=True)
    if browser and _has_screen():
        webbrowser.open(address)  # it is listened to already; the page comes as soon as the server runs
    server = uvicorn.Server(
        uvicorn.Config(application(blocks), log_level="error", access_log=False, ws="none", timeout_graceful_shutdown=1)
    )
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[taken])


def application(blocks: Any) -> Any:
    """The page as a program for a server, with the guards around it."""
    import gradio
    from fastapi import FastAPI

    from lunar.ui.page import STYLE, theme

    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gradio.mount_gradio_app(
        inner,
        blocks,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=STYLE,
    )
    return _Guard(mounted)


class _Guard:
    """Refuses what does not come from this machine's own page, and adds the headers to what goes out."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] != "http" or not is_own(given.get("host"), given.get("origin")):
            await PlainTextResponse("Only for this machine's own page.", status_code=403)(scope, receive, send)
            return

        if scope["path"].endswith("/openapi.json"):  # how other programs would call the page: it is for people
            await PlainTextResponse("Not found.", status_code=404)(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                replaced = {name.lower().encode() for name in HEADERS}
                kept = [pair for pair in message["headers"] if pair[0].lower() not in replaced]
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        await self.inner(scope, receive, guarded)


def is_own(host: str | None, origin: str | None) -> bool:
    """Whether a request was sent to this machine by name, by the page itself or by no page.

    Another site's page may send requests here too, under its own origin, or under its own host name that it has made
    point here.
    """
    if host is None or urlsplit(f"//{host}").hostname not in NAMES:
        return False
    return origin is None or urlsplit(origin).netloc == host


def _has_screen() -> bool:
    """Whether a browser could be shown; without a screen some would open in the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(one) for one in ("DISPLAY", "WAYLAND_DISPLAY"))
