"""Runs first in a kernel: every connection but to this machine fails, so that a notebook proves it needs no network."""

import ipaddress
import socket

_connect, _resolve = socket.socket.connect, socket.getaddrinfo


def _is_local(host):
    try:
        return host in ("localhost", "", None) or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guarded_connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        raise OSError(f"this notebook asked for {address[0]}: it must run without a network.")
    return _connect(self, address)


def _guarded_resolve(host, *arguments, **options):
    if not _is_local(host.decode() if isinstance(host, bytes) else host):
        raise OSError(f"this notebook asked for {host}: it must run without a network.")
    return _resolve(host, *arguments, **options)


socket.socket.connect, socket.getaddrinfo = _guarded_connect, _guarded_resolve
