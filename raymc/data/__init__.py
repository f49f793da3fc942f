"""Datasets: Parquet shards, their labels, and the feed that turns them into batches.

`shards/` is the contract between what makes rows (`formats/`, `features/`) and what trains on
them; `feed/` makes batches; `labels.py` is the vocabulary; `check.py` and `info.py` are behind
`raymc data check` and `info`; `storage.py` reaches and writes files. Start with `shards/`.
"""
