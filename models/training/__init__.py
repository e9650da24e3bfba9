"""Everything that trains a network."""
