"""What the lab's worker processes do: nothing here runs in the server."""
