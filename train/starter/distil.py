"""Features for things that no labelled picture shows, drawn from the encoder's own classifier.

The vision encoder was trained to tell 1000 kinds of things apart in photos. Its classifier's weights say in
which direction of feature space each kind lies; moving the features of some real picture there gives a
feature that the classifier assigns to that kind and that still looks like a real one. Drawn anew for every
batch, because features that come back get memorised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCALES = 40  # steps of the search along a class direction


@dataclass(frozen=True)
class Spread:
    """How varied batches are: above all how far from each other the draws of one class lie.

    Attributes:
        base: range of the weight that the real picture's deviation from the mean keeps.
        confidence: range of the classifier's probability of the class.
        mix: largest share of another medium's features that each medium's features get.
        share: a group of pictures and its share of a batch; the others' keep their proportions.
    """

    base: tuple[float, float]
    confidence: tuple[float, float]
    mix: float
    share: tuple[str, float] | None = None


# Photos deviate more from the mean than drawings, and the classifier is less sure of them than of most draws:
# mild ones are clear cases, wide ones as varied as photos.
MILD = Spread(base=(0.3, 0.9), confidence=(0.2, 0.95), mix=0.0)
WIDE = Spread(base=(0.8, 1.6), confidence=(0.05, 0.9), mix=0.5)
PHOTOS = Spread(base=(0.6, 1.4), confidence=(0.05, 0.9), mix=0.0)  # where real photos are moved


class ClassifierSampler:
    """Draws features that a linear classifier assigns to given classes.

    If classes are Gaussian clouds of one shape S, their classifier is w_c = S^-1 m_c, so class c lies in the
    direction S w_c from the common mean. S is estimated from the features of real pictures.

    Args:
        weight, bias: (C, D) and (C,) of the classifier.
        real: (M, D) features of real pictures, not negative (they come out of a ReLU).
    """

    def __init__(self, weight: Tensor, bias: Tensor, real: Tensor):
        self.weight, self.bias, self.real = weight, bias, real
        self.mean = real.mean(0)
        centred = real - self.mean
        shape = centred.T @ centred / len(real)  # (D, D)
        directions = (weight - weight.mean(0)) @ shape  # (C, D)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.length = centred.norm(dim=1).mean()

    def scores(self, features: Tensor) -> Tensor:
        """(B, D) features -> (B, C) logits of the classifier."""
        return features @ self.weight.T + self.bias

    def draw(self, classes: Tensor, generator: torch.Generator, spread: Spread = MILD) -> Tensor:
        """(B,) class indices -> (B, D) features that the classifier assigns to them."""
        return self.draw_from(classes, generator, spread)[0]

    def draw_from(self, classes: Tensor, generator: torch.Generator, spread: Spread) -> tuple[Tensor, Tensor]:
        """The same, and (B,) the row in `real` of one of the two pictures that each was moved from."""
        batch = len(classes)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch, 1, generator=generator)

        picked = torch.randint(len(self.real), (2, batch), generator=generator)
        blend = uniform(0.0, 1.0)
        base = blend * self.real[picked[0]] + (1 - blend) * self.real[picked[1]]
        base = self.mean + uniform(*spread.base) * (base - self.mean)
        step = self.length * self.directions[classes] * (2.5 / SCALES)
        wanted = uniform(*spread.confidence)
        feature, found = base.clamp(min=0), torch.zeros(batch, 1, dtype=torch.bool)
        for scale in range(1, SCALES + 1):
            moved = (base + scale * step).clamp(min=0)
            probabilities = self.scores(moved).softmax(-1)
            chosen = probabilities.argmax(-1, keepdim=True) == classes[:, None]
            feature = torch.where(found, feature, moved)
            found |= chosen & (probabilities.gather(1, classes[:, None]) > wanted)
        return feature, picked[0]
