"""Measure padded batches arriving in the training process, raymc's beside others', in one run.

    python jobs/benchmark_ingest.py [--megabyte 1000 --megabyte 10000] [--dtype float16]
        [--worker 1 --worker 2] [--way PART …] [--peer-python PATH] [--out DIR]

Sets are written to --data and kept. --way takes the ways whose names hold the part.
"""

import sys

from raymc.cli import main

if __name__ == "__main__":
    main(["bench", "ingest", *sys.argv[1:]])
