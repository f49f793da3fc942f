"""A trained model as a service over HTTP: a video in, its labels over time out.

`run.py` starts and ends it. `gateway.py` takes requests, of those that `access.py` admits;
`labeller.py` answers them; `on_ray.py` runs labellers on Ray Serve.
"""
