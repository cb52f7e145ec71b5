"""Benchmarks: each measures the real thing against what people use today; see README.md beside this file."""
