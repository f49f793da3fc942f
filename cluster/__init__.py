"""Cluster definitions, clusters on one machine, and faults done to them; run from a checkout."""
