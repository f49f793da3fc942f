"""Make, check or describe a dataset as a Ray job.

    ray job submit -- python jobs/data.py make CONFIG

Does what `raymc data` does, on the cluster that it is submitted to.
"""

import sys

from raymc.__main__ import main

if __name__ == "__main__":
    main(["data", *sys.argv[1:]])
