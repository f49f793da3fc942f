"""Benchmarks: raymc beside a peer or a limit, in turns, in one run; for `jobs/benchmark_*.py`.

Top layer: may use all of raymc, and the extra `bench`.
"""
