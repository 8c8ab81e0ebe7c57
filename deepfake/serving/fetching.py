"""A file from an address into a folder: over HTTP or HTTPS, from public addresses only, within limits.

The address that was checked is the one that is connected to, so that a name that resolves to another one a moment later
leads nowhere. Each redirect is checked like the first address. No proxy of the environment is asked."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from deepfake.serving.faults import Fault
from deepfake.serving.limits import Limits
from deepfake.serving.uploads import Upload, safe_name

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REDIRECTS = 3
_CONNECTING = 5.0  # seconds, and for each piece of what comes
_PIECE = 256 << 10
_LONGEST = 2000  # characters of an address
_MOVED = (301, 302, 303, 307, 308)
#: Within IPv6, what stands for addresses of IPv4: 6to4, NAT64 and Teredo lead to where those lead.
_TUNNELS = tuple(map(ipaddress.ip_network, ("2002::/16", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32")))


def is_public(address: Address) -> bool:
    """Whether an address is of the public Internet, not of this machine, its networks or its cloud's metadata.

    Example:
        >>> [is_public(ipaddress.ip_address(a)) for a in ("93.184.216.34", "169.254.169.254", "::ffff:10.0.0.1")]
        [True, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in tunnel for tunnel in _TUNNELS):
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def fetch(url: str, folder: Path, limits: Limits, allowed: Callable[[Address], bool] = is_public) -> Upload:
    """Fetch a file; blocks, and is for a thread.

    Args:
        url: Of the file.
        folder: Where it goes.
        limits: Of size and time.
        allowed: Which addresses may be connected to.

    Raises:
        Fault: 400 or 403 for an address that is not fetched from, 413 for a file that is too large, 422 for one that
            cannot be had.
    """
    until = time.monotonic() + limits.upload_seconds(limits.upload)
    for _ in range(_REDIRECTS + 1):
        moved = _fetch_once(url, folder / "0", limits, allowed, until)
        if moved is None:
            name = safe_name(unquote(urlsplit(url).path))
            return Upload(folder / "0", name, "", (folder / "0").stat().st_size)
        url = urljoin(url, moved)
    raise _not_had(f"it is redirected more than {_REDIRECTS} times")


def _not_had(why: str) -> Fault:
    return Fault(422, "not_fetched", f"the file cannot be fetched: {why}", "upload it, or give an address that answers")


def _parts(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and what is asked for there."""
    if len(url) > _LONGEST or any(ord(char) <= 32 or ord(char) >= 127 for char in url):
        raise Fault(400, "bad_url", "the address holds characters that an address cannot, or too many", "encode them")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Fault(400, "bad_url", "that is no address", "send one that begins with https://") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Fault(400, "bad_url", "only http:// and https:// addresses are fetched", "send one of those")
    if parts.username is not None or parts.password is not None:
        raise Fault(400, "bad_url", "the address holds a name or a password", "send one without")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), target


def checked_address(host: str, port: int, allowed: Callable[[Address], bool]) -> str:
    """The address of a host, all of whose addresses may be connected to.

    Raises:
        Fault: 403, where one of them may not; 422 where it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _not_had("its host is not known") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    # One that is public beside one that is not is how such checks are got around.
    if not addresses or not all(map(allowed, addresses)):
        raise Fault(
            403, "address_refused", "its host is not on the public Internet", "upload the file, or host it publicly"
        )
    return str(addresses[0])


def _fetch_once(url: str, target: Path, limits: Limits, allowed: Callable[[Address], bool], until: float) -> str | None:
    """Fetch what lies at an address, or say where it is redirected to."""
    scheme, host, port, asked = _parts(url)
    address = checked_address(host, port, allowed)
    connection = _Pinned(host, port, address, scheme == "https")
    # A server that sends a byte now and then keeps every single wait short.
    watch = threading.Timer(max(until - time.monotonic(), 0.1), connection.break_off)
    watch.daemon = True
    watch.start()
    try:
        connection.request("GET", asked, headers={"Accept-Encoding": "identity", "User-Agent": "deepfake-serve"})
        answer = connection.getresponse()
        if answer.status in _MOVED and answer.getheader("Location"):
            return answer.getheader("Location")
        if answer.status != 200:
            raise _not_had(f"its server answers {answer.status}")
        _save(answer, target, limits, until)
    except (OSError, http.client.HTTPException, ValueError):
        if time.monotonic() >= until:
            raise _not_had("it takes too long") from None
        raise _not_had("its server does not answer as it should") from None
    finally:
        watch.cancel()
        connection.close()
    return None


def _save(answer: http.client.HTTPResponse, target: Path, limits: Limits, until: float) -> None:
    too_large = Fault(
        413, "upload_too_large", f"the file is larger than {limits.upload >> 20} MB", "fetch a smaller one"
    )
    if answer.length is not None and answer.length > limits.upload:
        raise too_large
    size = 0
    with target.open("wb") as file:
        while piece := answer.read1(_PIECE):
            size += len(piece)
            if size > limits.upload:
                raise too_large
            if time.monotonic() > until:
                raise TimeoutError
            file.write(piece)
    if answer.length:
        raise http.client.IncompleteRead(b"")


class _Pinned(http.client.HTTPConnection):
    """A connection to an address, which is told and asked to prove that it is a host."""

    def __init__(self, host: str, port: int, address: str, secure: bool) -> None:
        super().__init__(host, port, timeout=_CONNECTING)
        self.default_port = 443 if secure else 80
        self._address = address
        self._secure = secure

    def connect(self) -> None:
        made = socket.create_connection((self._address, self.port), _CONNECTING)
        self.sock = ssl.create_default_context().wrap_socket(made, server_hostname=self.host) if self._secure else made

    def break_off(self) -> None:
        """End whatever waits for it."""
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)
