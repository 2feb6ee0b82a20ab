"""Reach: how near an address is, in whatever spelling it comes. What comes from elsewhere names no place inside."""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from enum import IntEnum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """How near an address is."""

    PUBLIC = 0
    PRIVATE = 1
    LINK_LOCAL = 2
    """Where clouds keep the credentials of a machine."""
    LOOPBACK = 3
    NONE = 4
    """No address of a server: unspecified, multicast, reserved."""

    def includes(self, other: Reach) -> bool:
        """Whether an upstream that is this near may name an address that is `other` near."""
        if other is Reach.LINK_LOCAL:
            return self is Reach.LINK_LOCAL
        return other is not Reach.NONE and other <= self


_UNICAST = ipaddress.ip_network("2000::/3")
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOBODY = tuple(ipaddress.ip_network(network) for network in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20"))
"""For protocols, relays that RFC 7526 gave up, and examples: not all of them are known to every Python that this runs on."""
_WRAPPED = (
    ipaddress.ip_network("::/96"),
    ipaddress.ip_network("::ffff:0:0:0/96"),
)
"""IPv4 in IPv6 that nobody should send any more: compatible (RFC 4291 section 2.5.5.1) and translated (RFC 2765)."""


def reach_of(address: Address) -> Reach:
    """How near it is; what is wrapped in IPv6 (mapped, compatible, 6to4, NAT64, Teredo) counts as what is inside.

    What no registry has given to servers of the internet is not public, whatever else is not known of it.
    """
    if address.is_loopback:
        return Reach.LOOPBACK
    if address.is_unspecified or address.is_multicast:
        return Reach.NONE
    if isinstance(address, ipaddress.IPv6Address):
        if (inner := _inside(address)) is not None:
            return reach_of(inner)
        if address in _SITE_LOCAL:
            return Reach.PRIVATE
    if address.is_link_local:
        return Reach.LINK_LOCAL
    if any(address in network for network in _NOBODY):
        return Reach.NONE
    if address.is_global and (address.version == 4 or address in _UNICAST):
        return Reach.PUBLIC
    return Reach.NONE if address.is_reserved else Reach.PRIVATE


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that it leads to. `64:ff9b:1::/48` keeps it where its network says, and is private whatever it is."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return max(address.teredo, key=reach_of)
    if address in _NAT64 or any(address in network for network in _WRAPPED):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def address_of(host: str) -> Address | None:
    """The address that a host is, in every spelling that a resolver takes: `2130706433`, `127.1`, `0x7f.1`, `0177.0.0.1`; None: a name."""
    host = _written(host)
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if host and not host.isspace() else None
    except (OSError, UnicodeError):
        return None


def names_inside(host: str) -> bool:
    """Whether a host is, as it is written, a place inside: one of this machine's or network's own names, or an address of it.

    A name that only the name service leads inside is not found out here.
    """
    host = _written(host)
    if host in ("", "localhost") or host.endswith((".localhost", ".local", ".internal")):
        return True
    address = address_of(host)
    return address is not None and reach_of(address) is not Reach.PUBLIC


def _written(host: str) -> str:
    """Without what resolvers overlook: brackets, a zone, dots at the end, letters that stand for others (`１２７。0.0.1`)."""
    host = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower()
    return host.strip("[]").rstrip(".").partition("%")[0]
