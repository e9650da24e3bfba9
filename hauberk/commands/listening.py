"""Where a command listens: an address of this machine and a free port, checked before anything is loaded."""

from __future__ import annotations

import ipaddress
import socket

from models.errors import InvalidInput


def numeric_address(host: str) -> str:
    """The number of an address of this machine: BentoML listens on numeric addresses only. Raises: InvalidInput."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as failure:
        raise InvalidInput(f"expected --host to be an address of this machine, got {host!r}") from failure


def check_free(address: str, host: str, port: int) -> None:
    """Whether somebody can listen there. Raises: InvalidInput."""
    if not 1 <= port <= 65535:
        raise InvalidInput(f"expected --port between 1 and 65535, got {port}")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as failure:
            reason = failure.strerror or str(failure)
            raise InvalidInput(f"cannot listen on {host}:{port} ({reason.lower()}); choose another with --port") from failure
