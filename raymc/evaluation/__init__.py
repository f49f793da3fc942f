"""A bundle on a dataset: its scores, what they are worth, predictions, and comparisons.

Start with `scoring.py`, which computes scores shard by shard, of large splits on Ray. The
others use them: `evaluate.py` measures, `predict.py` writes files, `compare.py` compares runs.
`scored.py` is the file in which scores are kept. `timeline.py` scores windows over a video,
`review/` finds what would make a dataset better, and `add_class.py` and `export.py` make bundles.
"""
