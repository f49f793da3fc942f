"""Media to features: wave forms and frames to the token matrices that shards hold.

Pure except for `extract` (Ray Data): the other files import neither Ray nor MLflow.
"""
