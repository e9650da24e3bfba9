"""Load tests with a verdict, over HTTP only: no code of the gateway is imported. See docs/loadtest.md."""
