"""Benchmarks: raymc beside a peer or a limit, timed in turns, in one run on one machine.

Run `python -m jobs.bench NAME` from a checkout (`--help` lists the names), or `all` for a page of
all that measure time. The peers are installed with `pip install 'raymc[bench]'`.

To add a benchmark, write a module NAME.py with `Settings`, a pydantic dataclass whose fields become
the options (or arguments, if `ARGUMENTS` has them), and a function `bench_NAME(console,
settings, out=None)` that collects `Measurement`s and ends with `publish`. Give it a line in
`__main__.py` and, to be part of `all`, a `BRIEF`: the settings of a run of a few minutes.

Start reading in `measure.py`, then `growth.py`, a short benchmark that uses all of it.
"""
