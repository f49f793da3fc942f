"""Where the last trials of a sweep go: by cases, and until no node more can end."""

import random

import pytest

from raymc.search.gathering import Room, place_for


def room(held: int, free: int, *, ours: int | None = None) -> Room:
    return Room(held, free, held if ours is None else ours)


@pytest.mark.parametrize(
    ("rooms", "place"),
    [
        ({"a": room(1, 1), "b": room(1, 1)}, "b"),
        ({"a": room(1, 1), "b": room(2, 0)}, None),  # nowhere to go
        ({"a": room(1, 1), "b": room(0, 2)}, None),  # a node without trials ends by itself
        ({"a": room(1, 3), "b": room(1, 3), "c": room(3, 1)}, "c"),  # the fullest
        ({"a": room(2, 0), "b": room(1, 1), "c": room(1, 1)}, None),  # others go first
        ({"a": room(2, 0), "b": room(1, 3), "c": room(3, 0, ours=1)}, "b"),  # b has too many to go
        ({"a": room(2, 2), "b": room(3, 1)}, None),  # one would go, and one would stay
        ({"a": room(2, 2, ours=1), "b": room(1, 3)}, None),  # another job keeps the node
        ({"a": room(1, 1), "b": room(1, 1, ours=0)}, "b"),  # and would keep that one anyway
        ({"b": room(1, 1), "c": room(1, 1)}, None),  # its node has gone meanwhile
    ],
)
def test_a_trial_moves_if_its_node_can_end_then(rooms: dict[str, Room], place: str | None) -> None:
    assert place_for("a", rooms) == place


@pytest.mark.parametrize("seed", range(20))
def test_trials_of_equal_nodes_end_on_as_few_as_hold_them(seed: int) -> None:
    draw = random.Random(seed)
    size, names = draw.randint(1, 4), "abcdef"
    held = {name: draw.randint(0, size) for name in names}
    trials = [name for name in names for _ in range(held[name])]
    moves = 0
    while True:
        rooms = {name: room(held[name], size - held[name]) for name in names}
        found = [(at, place_for(name, rooms)) for at, name in enumerate(trials)]
        going = [(at, place) for at, place in found if place]
        if not going:
            break
        at, place = draw.choice(going)  # whichever ends an epoch first
        assert place
        held[trials[at]] -= 1
        held[place] += 1
        trials[at] = place
        moves += 1
        assert held[place] <= size
    assert sum(number > 0 for number in held.values()) == -(-len(trials) // size)
    assert moves <= len(trials)
