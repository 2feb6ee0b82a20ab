"""Reach: how near an address is, in whatever spelling it comes. What comes from elsewhere names no place inside."""

from __future__ import annotations

import ipaddress
import socket
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


def reach_of(address: Address) -> Reach:
    """How near it is; what is wrapped in IPv6 (mapped, 6to4, NAT64, Teredo) counts as what is inside."""
    if isinstance(address, ipaddress.IPv6Address) and (inner := _inside(address)) is not None:
        return reach_of(inner)
    if address.is_loopback:
        return Reach.LOOPBACK
    if address.is_unspecified or address.is_multicast:
        return Reach.NONE
    if address.is_link_local:
        return Reach.LINK_LOCAL
    if address.is_global:
        return Reach.PUBLIC
    return Reach.NONE if address.is_reserved else Reach.PRIVATE


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in ipaddress.ip_network("64:ff9b::/96") or address in ipaddress.ip_network("64:ff9b:1::/48"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def names_inside(host: str) -> bool:
    """Whether a host is, as it is written, a place inside: one of this machine's or network's own names, or an address of it.

    Addresses are taken in every spelling that a resolver takes them in: `2130706433`, `127.1`, `0x7f.1`, `0177.0.0.1`. A name that
    only the name service leads inside is not found out here.
    """
    host = host.lower().strip("[]").rstrip(".").partition("%")[0]
    if host in ("", "localhost") or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return False
    return reach_of(address) is not Reach.PUBLIC
