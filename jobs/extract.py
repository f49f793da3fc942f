"""Turn videos into a dataset of shards as a Ray job.

    ray job submit -- python jobs/extract.py SOURCE --out DATASET [KEY=VALUE]...

Does what `raymc extract` does, on the cluster that it is submitted to.
"""

import sys

from raymc.__main__ import main

if __name__ == "__main__":
    main(["extract", *sys.argv[1:]])
