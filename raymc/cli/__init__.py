"""The command `raymc`, and what the terminal shows.

Start with `main.py`: its commands and their options. `runs.py` does what train, tune, report,
evaluate and predict say; `data.py`, `records.py`, `jobs.py` and `demo.py` hold commands beside
what they do. `display.py` and `tables.py` draw on the terminal.
"""
