"""Train one model as a Ray job.

    ray job submit -- python jobs/train.py CONFIG [KEY=VALUE]...

Does what `raymc train` does, on the cluster that it is submitted to.
"""

import sys

from raymc.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
