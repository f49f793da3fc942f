"""A trained model as a service over HTTP: a video in, its labels over time out.

`gateway.py` takes requests, `labeller.py` answers them, `on_ray.py` runs labellers on Ray Serve.
"""
