"""Guard before `study serve`, which refuses requests of other pages, and more bytes than there is room for."""

import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from study.use.loopback import refusal

MOST_UPLOAD = 128 << 20
"""Bytes of one request at most."""
MOST_HELD = 256 << 20
"""Bytes of all requests together at most."""


def busy_response(what: str) -> HTTPException:
    """Return the refusal of a request that would be too much at once; `what` says of what."""
    return HTTPException(503, f"{what}: try again in a second", headers={"Retry-After": "1"})


class Guard:
    """ASGI middleware that answers to this machine's own pages alone, and holds no more bytes than MOST_HELD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refused := self._refused(scope["method"], headers):
            answer = JSONResponse({"detail": refused.detail}, refused.status_code, refused.headers)
            await answer(scope, receive, _guarded(send))
            return
        size = _announced(scope["method"], headers)
        self._held += size
        try:
            await self._app(scope, _limited(receive, size), _guarded(send))
        finally:
            self._held -= size

    def _refused(self, method: str, headers: Headers) -> HTTPException | None:
        if reason := refusal(headers.get("host", ""), headers.get("origin")):
            return HTTPException(403, reason)
        size = _announced(method, headers)
        if size > MOST_UPLOAD:
            return HTTPException(413, f"{size:,} bytes: a request may have {MOST_UPLOAD:,} (send fewer images at once)")
        if self._held + size > MOST_HELD:
            return busy_response("too much is being uploaded at once")
        return None


def _announced(method: str, headers: Headers) -> int:
    """Return the bytes that a request will have, as it says, or at most where it does not say."""
    if method in ("GET", "HEAD"):
        return 0
    length = headers.get("content-length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else MOST_UPLOAD


def _limited(receive: Receive, most: int) -> Receive:
    got = 0

    async def limited() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise HTTPException(413, f"more than {most:,} bytes (send fewer images at once)")
        return message

    return limited


def _guarded(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
            added += [(b"cache-control", b"no-store"), (b"cross-origin-resource-policy", b"same-origin")]
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return guarded
