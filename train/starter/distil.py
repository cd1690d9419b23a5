"""Features for things that no labelled picture shows, drawn from the encoder's own classifier.

The vision encoder was trained to tell 1000 kinds of things apart in photos. Its classifier's weights say in
which direction of feature space each kind lies; moving the features of some real picture there gives a
feature that the classifier assigns to that kind and that still looks like a real one. Drawn anew for every
batch, because features that come back get memorised.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = 40  # steps of the search along a class direction


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

    def draw(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) class indices -> (B, D) features, each as confidently its class as photos are."""
        batch = len(classes)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch, 1, generator=generator)

        picked = torch.randint(len(self.real), (2, batch), generator=generator)
        blend = uniform(0.0, 1.0)
        base = blend * self.real[picked[0]] + (1 - blend) * self.real[picked[1]]
        base = self.mean + uniform(0.3, 0.9) * (base - self.mean)
        step = self.length * self.directions[classes] * (2.5 / SCALES)
        wanted = uniform(0.2, 0.95)
        feature, found = base.clamp(min=0), torch.zeros(batch, 1, dtype=torch.bool)
        for scale in range(1, SCALES + 1):
            moved = (base + scale * step).clamp(min=0)
            probability = (moved @ self.weight.T + self.bias).softmax(-1).gather(1, classes[:, None])
            feature = torch.where(found, feature, moved)
            found |= probability > wanted
        return feature
