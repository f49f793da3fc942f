"""What training knows beforehand: the same as from reading for each purpose, in one pass."""

from dataclasses import replace
from pathlib import Path

import pytest
from counted_files import counted
from tiny import MODALITIES, SHARD_ROWS, SPLIT_ROWS, VOCABULARY, tiny_row

from raymc.config import Config, override
from raymc.data.shards import Dataset, count_classes, open_dataset, token_means, write_dataset
from raymc.data.survey import clip_seconds, survey
from raymc.errors import DataError


def test_files_are_read_once(tiny: Dataset, tiny_config: Config) -> None:
    dataset, read = counted(tiny)
    known = survey(dataset, tiny_config.data)
    sizes = {
        f"{tiny.path}/{shard.file}": (split, shard.bytes)
        for split, shards in tiny.manifest.splits.items()
        for shard in shards
    }
    assert read.keys() == sizes.keys()
    for path, (split, size) in sizes.items():
        assert split == "test" or read[path] == size  # that is compared, not checked
    again = read.copy()
    for split in ("train", "val"):
        counts = count_classes(known.dataset, split).tolist()
        assert counts == count_classes(tiny, split).tolist()
    assert token_means(known.dataset, "train") == token_means(tiny, "train")
    assert read == again
    assert known.clip_seconds is None


def test_lengths_in_seconds(tmp_path: Path, tiny_config: Config) -> None:
    rows = {
        split: [
            replace(tiny_row(split, i), extra={"start_seconds": 1.0, "end_seconds": 2.0 + i})
            for i in range(number)
        ]
        for split, number in SPLIT_ROWS.items()
    }
    write_dataset(
        str(tmp_path), rows, vocabulary=VOCABULARY, modalities=MODALITIES, shard_rows=SHARD_ROWS
    )
    dataset = open_dataset(str(tmp_path))
    config = override(tiny_config, {"data.path": str(tmp_path)})
    assert survey(dataset, config.data).clip_seconds == clip_seconds(dataset, "train") == 23.0


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_changed_file_is_refused(tmp_path: Path, tiny_config: Config, split: str) -> None:
    rows = {one: [tiny_row(one, i) for i in range(9)] for one in SPLIT_ROWS}
    write_dataset(str(tmp_path), rows, vocabulary=VOCABULARY, modalities=MODALITIES)
    dataset = open_dataset(str(tmp_path))
    file = tmp_path / split / "00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"{split}/00000\.parquet is not the file that was written"
    ):
        survey(dataset, tiny_config.data)
    file.unlink()
    with pytest.raises(DataError, match=rf"{split}/00000\.parquet is missing"):
        survey(dataset, tiny_config.data)
