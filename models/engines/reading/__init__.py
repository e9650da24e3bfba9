"""Which layers a graph has, and how they are read; nothing here is imported by a server that reads none."""
