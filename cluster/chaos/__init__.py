"""Fault injection: what becomes of a run or sweep when something fails, on local clusters.

Start with faults.py, which has each fault as a short function, then scene.py, the run that it
happens to. run.py injects the faults and prints the table, soak.py is the long test of memory,
services.py has the servers, disk and clock that faults break. Needs the extra `bench`.
"""
