"""The network and its losses: padded tokens in, embeddings, scores and a loss out.

Start with `transformer.py`, the whole model; `layers.py` holds its attention layers and the
positions in time. `losses/` has the losses; raymc/README.md says how to
add one.
"""
