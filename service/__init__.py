"""HTTP in, HTTP out: the BentoML service around a defended classifier."""
