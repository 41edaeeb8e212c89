"""Sampling for benchmarks: what a benchmark asks for, and pictures in the layout that its official scorer reads."""
