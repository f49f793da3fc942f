"""The network and its losses: padded tokens in, embeddings, scores and a loss out.

Start with `transformer.py`, the whole model; `layers.py` holds its attention layers and the
positions in time. `losses/` has one file per loss; its `__init__.py` says how to add one.
"""
