"""Side by side with ART: one run, warm peers, ratios. `python -m benchmarks` writes docs/benchmarks.md."""
