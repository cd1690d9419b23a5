"""What tells a room from all others is exchanged; what rooms have in common stays."""

import torch

from train.starter.pictures.rooms import EXCHANGED, SHARED, SPREAD, STRANGE, RoomDirections


def rooms(count: int, seed: int) -> dict[int, torch.Tensor]:
    """Features of two layers with 32 strong directions, which are the first 16 numbers of each."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.tensor([10.0] * (SHARED // 2) + [0.1] * 40)
    return {layer: torch.randn(count, 16 + 40, generator=generator) * strength + layer for layer in (3, 5)}


def own(features: dict[int, torch.Tensor]) -> torch.Tensor:
    return torch.cat([f[:, : SHARED // 2] for f in features.values()], 1)


def rest(features: dict[int, torch.Tensor]) -> torch.Tensor:
    return torch.cat([f[:, SHARED // 2 :] for f in features.values()], 1)


def test_a_room_keeps_its_own_directions_and_gets_the_rest_of_another_room():
    known, seen = rooms(400, 0), rooms(400, 1)
    new = RoomDirections(known).exchanged(seen, range(400), torch.Generator().manual_seed(0))
    distance = (own(new) - own(seen)).norm(dim=1) / (10 * SHARED**0.5)
    kept = distance < 2 * SPREAD
    assert abs(kept.float().mean() - (1 - STRANGE)) < 0.06  # all of the others is another room's
    assert abs(distance[kept].mean() - SPREAD) < 0.05
    likeness = torch.cdist(rest(new) - 4, rest(seen) - 4)
    nearest = likeness.argmin(1)
    itself = (nearest[kept] == torch.arange(400)[kept]).float().mean()
    assert abs(itself - (1 - EXCHANGED)) < 0.06


def test_other_pictures_of_the_batch_stay_as_they_are():
    known, seen = rooms(100, 0), rooms(6, 1)
    new = RoomDirections(known).exchanged(seen, [1, 4], torch.Generator().manual_seed(0))
    for layer in seen:
        assert torch.equal(new[layer][[0, 2, 3, 5]], seen[layer][[0, 2, 3, 5]])
        assert not torch.equal(new[layer][[1, 4]], seen[layer][[1, 4]])


def test_the_same_rooms_have_the_same_directions_and_randomness_elsewhere_goes_on():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two = (RoomDirections(rooms(50, 0)) for _ in range(2))
    assert torch.equal(one.components, two.components) and torch.equal(torch.get_rng_state(), state)


def test_fewer_rooms_than_directions_do():
    few = rooms(2, 0)
    new = RoomDirections(few).exchanged(few, [0, 1], torch.Generator().manual_seed(0))
    assert all(torch.isfinite(f).all() for f in new.values())
