"""How the server starts, drains and ends."""
