"""From shards to the batches of a training step.

A batch passes these files in order: `shared.py` reads a split's Arrow tables (`on_ray.py` puts
them where every node can read them), `order.py` decides which rows make a batch, `batches.py` pads
them (`RowStore.batch`), and `feed.py` iterates over one worker's batches. `looks.py` finds classes
that look alike. Start with `Feed` in `feed.py`.
"""
