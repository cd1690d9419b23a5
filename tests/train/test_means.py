"""The mean features of the training data are stored with an adapter, and its answers stay the same."""

import pytest
import torch

from epalm.adapter import Adapter
from epalm.errors import EPALMError
from train.features.means import mean_features, store_mean_features


def test_the_mean_counts_examples_not_batches():
    batches = [[torch.ones(3, 2), torch.zeros(3, 4)], [torch.full((1, 2), 5.0), torch.full((1, 4), 4.0)]]
    means = mean_features(batches)
    assert [mean.tolist() for mean in means] == [[2.0, 2.0], [1.0] * 4]
    with pytest.raises(EPALMError, match="no features"):
        mean_features([])


def test_the_rest_of_the_adapter_stays_as_it_is(tiny_model_dir, tmp_path):
    before = Adapter.load(tiny_model_dir / "image-qa")
    before.save(tmp_path)
    widths = before.config.encoder.widths
    store_mean_features(tmp_path, [torch.randn(width) for width in widths])
    after = Adapter.load(tmp_path)
    assert [mean.shape[0] for mean in after.mean_features] == list(widths)
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor)
