"""Ray as raymc uses it: joining or starting it, events from workers, and jobs on a cluster.

connect.py joins or starts Ray and says what resources there are; channel.py carries events from
workers to the driver. For `raymc submit`: submit.py works out what to send, packing.py packs the
working tree, jobs.py talks to the cluster's job server. Start with connect.py.
"""
