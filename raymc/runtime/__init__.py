"""Where raymc's code runs: on Ray, as a job on a cluster, or in a child process.

Start with connect.py, which joins or starts Ray and says what resources it has. channel.py carries
events from workers to the driver. For `raymc submit`, submit.py works out what to send, reach.py
refuses paths that the cluster would not see, packing.py packs the working tree, and jobs.py talks
to the cluster's job server. child_process.py runs native code that may crash. interruption.py ends
a command on Ctrl-C.
"""
