"""Timings of single operations, as ratios within one run."""
