"""Media to features: videos, sound and transcripts to the token matrices that shards hold.

`sources.py` lists media files, `clips.py` and `decoding/` cut them into clips, `encoders/` turn
clips into tokens, `extraction.py` does this for one file and `on_ray.py` for many, on a cluster.
Start with `extract_source` in `extraction.py`. `encoders/__init__.py` says how to add an encoder.
"""
