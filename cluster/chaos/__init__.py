"""Faults done to runs and sweeps on local clusters, and what became of them; for `jobs/chaos.py`.

Top layer: may use all of raymc, and the extra `bench`.
"""
