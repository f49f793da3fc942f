"""Datasets of Parquet shards: the contract between those who make rows and those who train.

Pure: no Ray, no MLflow. A dataset is a folder, local or remote, of `SPLIT/00000.parquet` files
and `dataset.json`. `write.py` makes one of the rows of `rows.py`, `stream.py` of rows
that arrive one by one, `read.py` opens one,
`scan.py` understands folders of others; `manifest.py` is what stands in `dataset.json`,
`tokens.py` what the bytes of a modality mean, `ragged.py` turns them into arrays, and
`storage.py` reaches the files.
"""

from raymc.data.shards.manifest import FAILURES_FILE, Manifest, Shard
from raymc.data.shards.ragged import Ragged, ragged
from raymc.data.shards.read import Dataset, open_dataset, read_shard
from raymc.data.shards.rows import Row, Rows, write_shard
from raymc.data.shards.tokens import Modality
from raymc.data.shards.write import ShardStream, write_dataset, write_manifest

__all__ = [
    "FAILURES_FILE",
    "Dataset",
    "Manifest",
    "Modality",
    "Ragged",
    "Row",
    "Rows",
    "Shard",
    "ShardStream",
    "open_dataset",
    "ragged",
    "read_shard",
    "write_dataset",
    "write_manifest",
    "write_shard",
]
