"""What the lab says in a worker's environment."""

from __future__ import annotations

USER = "HAUBERK_LAB_USER"
"""UID:GID of the user that it becomes."""
NETWORK = "HAUBERK_LAB_NETWORK"
"""That it keeps the network."""
