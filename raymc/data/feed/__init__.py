"""From shards to the batches of a training step.

A batch passes these files in order: `on_ray.py` makes a split's Arrow tables readable on every
node, `order.py` decides which rows make a batch, `batches.py` pads them (`RowStore.batch`), and
`feed.py` iterates over one worker's batches. Start with `Feed` in `feed.py`.
"""
