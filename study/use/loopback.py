"""Check that a request comes from this machine's own pages: any website can send some to 127.0.0.1 too."""


def refusal(host: str, origin: str | None) -> str | None:
    """Return why a request with these headers is not from a page of this machine; None where it is.

    A name that its owner points here later (DNS rebinding) is not ours; any port is, since it may be forwarded.
    """
    if host.partition(":")[0] not in ("127.0.0.1", "localhost"):
        return "this page answers to http://127.0.0.1 alone"
    return "another page asked" if origin not in (None, f"http://{host}") else None
