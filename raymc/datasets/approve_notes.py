"""What a user may not expect of APPROVE, for the choices that were made.

May import `approve_release.py` and `joined.py`.
"""

from collections.abc import Iterator, Mapping

from raymc.datasets.approve_files import SPLITS
from raymc.datasets.approve_release import Release
from raymc.datasets.joined import Features, shown


def notes(
    release: Release,
    features: Features,
    splits: Mapping[str, str],
    *,
    split_policy: str,
    background: str,
) -> Iterator[str]:
    """Say what the choices did.

    Args:
        release: The release.
        features: What it is joined with.
        splits: The split of each id that is kept.
        split_policy: As in `ApproveConfig`.
        background: As in `ApproveConfig`.
    """
    listed = release.listed()
    several = sum(len(found) > 1 for found in listed.values())
    if several:
        yield f"split_policy {split_policy} decided on {several} videos of several splits"
    unlabelled = [name for name, entry in release.entries.items() if not entry.labels]
    torn = {name: None for name in unlabelled if release.entries[name].video in listed}
    if torn:
        yield (
            f"{len(torn)} of {len(unlabelled)} background ids have the address of a video that is "
            f"annotated under another id ({shown(torn)}); background '{background}' "
            f"{'keeps them, as background' if background == 'all' else 'leaves them out'}"
        )
    drawn = [splits[name] for name in unlabelled if name in splits and name not in torn]
    if drawn:
        counts = ", ".join(f"{split} {drawn.count(split)}" for split in SPLITS)
        yield (
            f"background ids are in no list of a split; {len(drawn)} were divided by a hash: "
            f"{counts} (the release's README uses all for training: background_val_share and "
            "background_test_share 0)"
        )
    yield from features.notes(splits, release.entries)
    yield from _gap_notes(release, features, splits, split_policy)


def _gap_notes(
    release: Release, features: Features, splits: Mapping[str, str], split_policy: str
) -> Iterator[str]:
    """Say which labels of a split no video carries, and what follows."""
    both = any({"val", "test"} <= set(found) for found in release.listed().values())
    remedy = (
        "; split_policy divide shares what val and test both list"
        if both and split_policy != "divide"
        else ""
    )
    for split, use in zip(SPLITS, ("learned", "used to choose epochs or thresholds", "tested")):
        names = [name for name, at in splits.items() if at == split and name in features.clips]
        for domain, known in release.vocabulary.groups.items():
            labels = [release.entries[name].labels.get(domain) for name in names]
            annotated = [row for row in labels if row is not None]
            missing = set(known) - {label for row in annotated for label in row}
            if missing:
                yield (
                    f"{split} has {len(annotated)} videos annotated for {domain}, and none with "
                    f"{len(missing)} of its {len(known)} labels: they can't be {use}{remedy}"
                )
