"""Searching settings: many trials of the same training, run by Ray Tune, chosen by Optuna.

Start with `sweep.py`, which runs a sweep. `study.py` opens Optuna's study and makes its sampler,
`searcher.py` connects Tune with the study, `trials.py` is the record of a trial that every other
room reads, and `audit.py` checks which rows each trial was trained on.
"""
