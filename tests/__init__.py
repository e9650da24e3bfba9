"""unit mirrors the source, property states laws, conformance asks independent oracles, service drives a real server."""
