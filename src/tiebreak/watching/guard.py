"""What the page's server refuses: other hosts' names, other methods, and everything from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Lets through requests to the names this server goes by, and tells browsers to load nothing else.

    A page of another site can have its own name resolve to 127.0.0.1 and then read answers as its own; its
    requests still carry that name.

    Args:
        inner: the application.
        names: hosts that a request may ask for; None for any.
    """

    def __init__(self, inner: Application, *, names: tuple[str, ...] | None) -> None:
        self._inner = inner
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if self._names is not None and _host(scope) not in self._names:
            await _refuse(
                send_guarded, 421, b"This server answers to its own name only: open the address it printed."
            )
        elif scope["method"] not in ("GET", "HEAD"):
            await _refuse(send_guarded, 405, b"This page only shows; nothing can be sent to it.")
        else:
            await self._inner(scope, receive, send_guarded)


def _host(scope: Scope) -> str:
    """The host that a request asks for, without its port."""
    named = [value for key, value in scope["headers"] if key == b"host"]
    text = named[0].decode("latin-1").lower() if len(named) == 1 else ""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


async def _refuse(send: Send, status: int, sentence: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )
    await send({"type": "http.response.body", "body": sentence + b"\n"})
