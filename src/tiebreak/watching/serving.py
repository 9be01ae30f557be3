"""The server of the live page: a loop that looks at the results folder, and a socket on this machine."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from tiebreak.design.axes import UserError
from tiebreak.watching.guard import LOOPBACK, Application, Guard
from tiebreak.watching.pages import Dashboard

LOOK_SECONDS = 1.0
"""Time between two looks at the results folder."""

_PORTS_TRIED = 50


def application(dashboard: Dashboard, *, host: str = "127.0.0.1") -> Application:
    """The pages behind their guard.

    Args:
        dashboard: what is shown.
        host: address that is listened at; on loopback only its own names are answered to.
    """
    return Guard(dashboard.routes(), names=LOOPBACK if host in LOOPBACK else None)


def serve(
    results: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    opens: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        results: the results folder; it need not exist yet.
        host: address to listen at.
        port: port to listen at; 0 for any that is free.
        opens: whether a browser is opened.
        on_ready: is told the page's address once it can be opened.

    Raises:
        UserError: the address or port cannot be had.
    """
    listener = _listener(host, port)
    port = listener.getsockname()[1]
    shown = "localhost" if host in ("", "0.0.0.0", "::") else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    dashboard = Dashboard(results)
    gc.collect()
    gc.freeze()  # a study stays: going through all of it now and then would make somebody wait
    server = uvicorn.Server(
        uvicorn.Config(
            application(dashboard, host=host),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    ended = threading.Event()
    looker = threading.Thread(target=_look, args=(dashboard, ended), name="survey", daemon=True)
    looker.start()
    print(f"dashboard: {url} shows {results} (Ctrl-C ends it)", flush=True)
    if host not in LOOPBACK:
        print(
            f"tiebreak: --host {host} lets everybody who reaches this machine read these results.",
            file=sys.stderr,
        )
    if opens:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    if on_ready is not None:
        on_ready(url)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        ended.set()
        listener.close()


def _look(dashboard: Dashboard, ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        dashboard.look()


def _listener(host: str, port: int) -> socket.socket:
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = _free_port(host, port)
            advice = f"Try --port {free}" if free else "Try another --port"
            raise UserError(
                f"port {port} of {host} is in use, perhaps by another dashboard. {advice}."
            ) from None
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"--host {host} is no address of this machine. Use 127.0.0.1, or 0.0.0.0 for every address."
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is for administrators. Try --port 8765.") from None
        raise


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _free_port(host: str, port: int) -> int | None:
    """The next port that can be had."""
    for candidate in range(port + 1, min(port + 1 + _PORTS_TRIED, 65536)):
        with contextlib.suppress(OSError):
            _bound(host, candidate).close()
            return candidate
    return None
