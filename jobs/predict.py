"""Label videos or a dataset as a Ray job.

    ray job submit -- python jobs/predict.py RUN SOURCE --out FILE

Does what `raymc predict` does, on the cluster that it is submitted to.
"""

import sys

from raymc.__main__ import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
