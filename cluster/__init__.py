"""Definitions of clusters, clusters on this machine, and fault injection; used from a checkout.

Start with README.md. `python -m cluster.local` runs a cluster of several nodes on this machine,
`python -m cluster.chaos` injects faults into runs and sweeps on such clusters.
"""
