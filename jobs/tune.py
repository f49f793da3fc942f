"""Search settings as a Ray job.

    ray job submit -- python jobs/tune.py CONFIG [KEY=VALUE]...

Does what `raymc tune` does, on the cluster that it is submitted to.
"""

import sys

from raymc.__main__ import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
