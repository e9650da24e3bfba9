"""Load tests that decide: HTTP only, nothing of the gateway's own code is imported. See docs/loadtest.md."""
