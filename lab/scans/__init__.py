"""What the pages show of scans: clusters, samples, and the marks that a person sets on them."""
