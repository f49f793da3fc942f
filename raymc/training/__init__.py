"""From one optimizer step to one run on a cluster.

Read `learner.py` (a step and its loss), `loop.py` (epochs and checkpoints; `fit`) and `on_ray.py`
(a run on Ray; `worker.py` is what each worker does), or `here.py` (a small run, in this process).
`keeping.py` says which checkpoints are kept, and which one a run resumes from. `validation.py`
scores a split, `checkpoint.py` stores a run in progress and `bundle.py` a trained model.
`row_log.py` and `audit.py` prove that each epoch used every row once.
"""
