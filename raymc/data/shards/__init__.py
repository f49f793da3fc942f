"""Datasets of Parquet shards: the contract between what makes rows and what trains on them.

A dataset is a folder, local or remote, of `SPLIT/00000.parquet` files and `dataset.json`, whose
contents `manifest.py` describes. `rows.py` says what a row is, `tokens.py` what the bytes of a
modality mean. `write.py` writes a dataset, `read.py` opens one, and `ragged.py` turns columns into
arrays. Start with `Row` in `rows.py` and `write_dataset` in `write.py`.
"""

from raymc.data.shards.manifest import FAILURES_FILE, Manifest, Shard
from raymc.data.shards.means import Means, token_means
from raymc.data.shards.ragged import Ragged, ragged
from raymc.data.shards.read import Dataset, count_classes, is_dataset, open_dataset, read_shard
from raymc.data.shards.rows import Row, Rows, write_shard
from raymc.data.shards.tokens import Modality
from raymc.data.shards.write import ShardStream, write_dataset, write_manifest

__all__ = [
    "FAILURES_FILE",
    "Dataset",
    "Manifest",
    "Means",
    "Modality",
    "Ragged",
    "Row",
    "Rows",
    "Shard",
    "ShardStream",
    "count_classes",
    "is_dataset",
    "open_dataset",
    "ragged",
    "read_shard",
    "token_means",
    "write_dataset",
    "write_manifest",
    "write_shard",
]
