"""Cached features: what the encoder gives, to the last bit, however often the work was cut short."""

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import ASTConfig, ASTModel, TimesformerConfig, TimesformerModel

from epalm.config import EncoderConfig
from epalm.encoders.load import load_encoder
from epalm.errors import EPALMError
from epalm.media.recipes import RECIPES, ImageRecipe
from tests.helpers.features import CONFIG, RECIPE, Tiny, contents, fill, item, opened, pictures
from train.features import encoding
from train.features.augment import augmented, open_augmented
from train.features.encoding import encode_manifest, planned_shards, read_ahead, seed_of
from train.features.shards import cached_widths

MEDIA = Path(find_spec("gradio").origin).parent / "media_assets"  # not imported: every process would be


# What is kept


def test_the_cache_gives_what_the_encoder_gives(tmp_path):
    items, encoder = pictures(tmp_path / "media", 5), Tiny()
    _, cache, _ = fill(tmp_path / "cache", items, batch=1)
    recipe = ImageRecipe.from_dict(RECIPE)
    for each in items:
        features = cache.get(cache.key(each.media), 0)
        direct = encoder(recipe(recipe.open(each.media))[None], CONFIG.feature_layers)
        assert [tuple(f.shape) for f in features] == [(6,), (4,), (4,)]
        assert all(torch.equal(f, d[0]) for f, d in zip(features, direct, strict=True))


def test_layers_side_by_side_are_read_from_what_is_there(tmp_path):
    items = pictures(tmp_path / "media", 2)
    _, cache, _ = fill(tmp_path / "cache", items)
    key = cache.key(items[0].media)
    both = opened(tmp_path / "cache", encoder=EncoderConfig("tiny", ((1, -1), -2), (10, 6))).get(key, 0)
    second, last, _ = cache.get(key, 0)
    assert both[0].tolist() == [*second.tolist(), *last.tolist()] and both[1].tolist() == second.tolist()
    with pytest.raises(EPALMError, match=r"reads layer \(0, 1\)"):
        opened(tmp_path / "cache", encoder=EncoderConfig("tiny", ((0, 1),), (11,)))


def test_draws_are_the_training_transform_with_a_seed_of_content_and_draw(tmp_path):
    items, encoder = pictures(tmp_path / "media", 2), Tiny()
    report, cache, _ = fill(tmp_path / "cache", items, draws=2, batch=1)
    assert report.encoded == 6
    recipe, path = ImageRecipe.from_dict(RECIPE), items[1].media
    key = cache.key(path)
    for draw in (1, 2):
        seed = seed_of(key, draw)
        view = augmented(recipe, open_augmented(recipe, path, seed), seed)
        assert torch.equal(cache.get(key, draw)[0], encoder(view[None], (-2,))[0][0])
    assert not torch.equal(cache.get(key, 1)[0], cache.get(key, 2)[0])


def test_augmentation_with_and_without_the_originals_errors_share_a_cache(tmp_path):
    items = pictures(tmp_path / "media", 8)
    fill(tmp_path / "cache", items, draws=1)
    report, _, _ = fill(tmp_path / "cache", items, draws=1, reference=True)
    assert (report.encoded, report.present) == (8, 8)  # draw 0 is the same
    ours, theirs = opened(tmp_path / "cache", 1), opened(tmp_path / "cache", 1, reference=True)
    keys = [ours.key(each.media) for each in items]
    assert any(not torch.equal(ours.get(key, 1)[0], theirs.get(key, 1)[0]) for key in keys)
    assert all(torch.equal(ours.get(key, 0)[0], theirs.get(key, 0)[0]) for key in keys)


def test_a_batch_is_the_stacked_features_in_the_order_asked_for(tmp_path):
    items = pictures(tmp_path / "media", 7)
    _, cache, _ = fill(tmp_path / "cache", items, draws=1)
    samples = [(cache.key(each.media), draw) for each in items[::-1] for draw in (1, 0)]
    for layer, features in enumerate(cache.batch(samples)):
        assert features.shape == (14, (6, 4, 4)[layer]) and features.dtype == torch.float32
        assert torch.equal(features, torch.stack([cache.get(*sample)[layer] for sample in samples]))


def test_a_layer_is_stored_once_and_fewer_layers_can_be_read(tmp_path):
    items = pictures(tmp_path / "media", 1)
    _, cache, _ = fill(tmp_path / "cache", items)
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["layers"] == [1, 2]
    last = opened(tmp_path / "cache", encoder=EncoderConfig("tiny", (2,), (4,)))
    assert torch.equal(last.get(last.key(items[0].media), 0)[0], cache.get(cache.key(items[0].media), 0)[1])


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_videos_and_sounds(tmp_path, modality):
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 2}
    if modality == "video":
        TimesformerModel(TimesformerConfig(**sizes, image_size=32, num_frames=4)).save_pretrained(
            tmp_path / "e"
        )
        recipe = replace(RECIPES["video"]["epalm-video-8"], size=32, frames=4)
        media = [MEDIA / "videos" / name for name in ("a.mp4", "b.mp4")]
    else:
        ASTModel(ASTConfig(**sizes, max_length=96, num_mel_bins=48)).save_pretrained(tmp_path / "e")
        recipe = replace(RECIPES["audio"]["epalm-audio-16k"], mel_bins=48, frames=96)
        media = [MEDIA / "audio" / name for name in ("sax.wav", "cantina.wav")]
    config = EncoderConfig(str(tmp_path / "e"), (-2, -1), (24, 24))
    encoder = load_encoder(config.id)
    cache = opened(tmp_path / "cache", 1, config, recipe.to_dict())
    items = [item(path) for path in media]
    report = encode_manifest(items, cache, encoder, batch=1, progress=False)
    assert report.encoded == 4
    direct = encoder(recipe(recipe.open(str(media[0])))[None], (-2, -1))
    features = cache.get(cache.key(media[0]), 0)
    assert all(torch.equal(f, d[0]) for f, d in zip(features, direct, strict=True))
    assert not torch.equal(cache.get(cache.key(media[0]), 1)[1], features[1])


# Which files are known


def test_each_file_is_encoded_once_however_many_items_name_it(tmp_path):
    items, encoder = pictures(tmp_path / "media", 3), Tiny()
    shutil.copy(items[0].media, tmp_path / "copy.png")
    report, cache, _ = fill(tmp_path / "cache", [*items * 4, item(tmp_path / "copy.png")], encoder=encoder)
    assert (report.media, report.encoded, encoder.seen) == (4, 3, 3)
    assert cache.key(tmp_path / "copy.png") == cache.key(items[0].media)


def test_a_second_run_encodes_nothing_and_reads_no_file(tmp_path, monkeypatch):
    items, encoder = pictures(tmp_path / "media", 5), Tiny()
    fill(tmp_path / "cache", items, 1)
    before = contents(tmp_path / "cache")
    monkeypatch.setattr("train.features.shards.open_file", None)
    report, cache, _ = fill(tmp_path / "cache", items, 1, encoder)
    assert (report.encoded, report.present, encoder.seen) == (0, 10, 0)
    assert contents(tmp_path / "cache") == before
    assert cache.missing(each.media for each in items) == []


def test_moved_media_keep_their_features_and_edited_ones_get_new_ones(tmp_path):
    items = pictures(tmp_path / "media", 4)
    _, cache, _ = fill(tmp_path / "cache", items)
    old = cache.get(cache.key(items[0].media), 0)[0]
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    moved = [item(tmp_path / "elsewhere" / each.id) for each in items]
    os.utime(moved[3].media, (1, 1))
    shutil.copy(pictures(tmp_path / "new", 1, first=9)[0].media, moved[0].media)
    assert opened(tmp_path / "cache").missing(each.media for each in moved) == [moved[0].media]
    report, cache, _ = fill(tmp_path / "cache", moved)
    assert (report.encoded, report.present) == (1, 3)
    assert not torch.equal(cache.get(cache.key(moved[0].media), 0)[0], old)


def test_features_outlive_their_media(tmp_path):
    items = pictures(tmp_path / "media", 2)
    fill(tmp_path / "cache", items)
    shutil.rmtree(tmp_path / "media")
    cache = opened(tmp_path / "cache")
    assert cache.missing(each.media for each in items) == []
    assert len(cache.get(cache.key(items[0].media), 0)) == 3


def test_more_media_and_more_draws_are_added_to_what_is_there(tmp_path):
    items = pictures(tmp_path / "media", 3)
    fill(tmp_path / "cache", items)
    items += pictures(tmp_path / "media", 2, first=3)
    assert opened(tmp_path / "cache").missing(each.media for each in items) == [
        items[3].media,
        items[4].media,
    ]
    report, cache, _ = fill(tmp_path / "cache", items, draws=2)
    assert (report.encoded, report.present) == (12, 3)
    assert cache.missing(each.media for each in items) == []


def test_unreadable_media_are_named_and_the_others_encoded(tmp_path):
    items = pictures(tmp_path / "media", 5)
    Path(items[1].media).write_bytes(Path(items[1].media).read_bytes()[:60])
    Path(items[2].media).unlink()
    report, cache, said = fill(tmp_path / "cache", items, draws=1)
    assert report.encoded == 6
    assert sorted(report.unreadable) == [items[1].media, items[2].media] and len(said) == 2
    assert "does not exist" in report.unreadable[items[2].media]
    assert cache.missing(each.media for each in items) == [items[1].media, items[2].media]
    pictures(tmp_path / "media", 5)
    assert fill(tmp_path / "cache", items, draws=1)[0].encoded == 4


def test_a_list_of_media_that_a_kill_cut_off_is_mended(tmp_path):
    items = pictures(tmp_path / "media", 3)
    fill(tmp_path / "cache", items)
    whole = contents(tmp_path / "cache")
    path = tmp_path / "cache" / "media-0.jsonl"
    path.write_bytes(whole["media-0.jsonl"][:-20])
    assert fill(tmp_path / "cache", items)[0].encoded == 0
    assert contents(tmp_path / "cache") == whole


# What is refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoder": replace(CONFIG, id="large")}, r"encoder.id is 'tiny' there and 'large' here"),
        ({"encoder": replace(CONFIG, revision="a1")}, r"encoder.revision is None there and 'a1' here"),
        ({"encoder": EncoderConfig("tiny", (0, -1), (5, 4))}, r"layers \[1, 2\] .* reads layer 0"),
        ({"encoder": EncoderConfig("tiny", (-4,), (5,))}, r"layers \[1, 2\] .* reads layer -4"),
        ({"recipe": RECIPE | {"size": 64}}, r"recipe.size is 32 there and 64 here"),
    ],
)
def test_a_cache_of_another_configuration_is_refused(tmp_path, change, sentence):
    fill(tmp_path / "cache", pictures(tmp_path / "media", 1))
    with pytest.raises(EPALMError, match=sentence):
        opened(tmp_path / "cache", **change)
    opened(tmp_path / "cache", recipe=json.loads(json.dumps(RECIPE)))  # lists for tuples are no difference


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    items = pictures(tmp_path / "media", 1)
    fill(tmp_path / "cache", items)
    with pytest.raises(EPALMError, match="other weights of tiny"):
        fill(tmp_path / "cache", items, encoder=Tiny(seed=1))


def test_wrong_widths_are_refused(tmp_path):
    cache = opened(tmp_path / "cache", encoder=replace(CONFIG, widths=(6, 4, 8)))
    with pytest.raises(EPALMError, match=r"widths \[6, 4, 8\], but tiny gives \[6, 4, 4\]"):
        encode_manifest([], cache, Tiny())


def test_what_is_not_there_is_said(tmp_path):
    cache = opened(tmp_path / "nothing")
    with pytest.raises(EPALMError, match="lacks draw 1 of a file .*run the features command"):
        cache.get("0" * 32, 1)
    assert not (tmp_path / "nothing").exists()


def test_a_second_process_of_the_same_rank_is_refused(tmp_path):
    with (
        opened(tmp_path / "cache").filling(Tiny()),
        pytest.raises(EPALMError, match="Another process is filling"),
    ):
        fill(tmp_path / "cache", pictures(tmp_path / "media", 1))


# Damage


@pytest.mark.parametrize("damage", ["a changed byte", "cut off", "gone", "wrong rows"])
def test_a_damaged_shard_is_told_when_it_is_read_and_made_again_by_the_next_run(
    tmp_path, damage, monkeypatch
):
    monkeypatch.setattr(encoding, "SHARD_ROWS", 4)
    items = pictures(tmp_path / "media", 10)
    _, cache, _ = fill(tmp_path / "cache", items)
    whole = contents(tmp_path / "cache")
    name, _ = cache.rows[cache.key(items[5].media), "evaluation"]
    shard = tmp_path / "cache" / "shards" / f"{name}.safetensors"
    data = shard.read_bytes()
    if damage == "a changed byte":
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut off":
        shard.write_bytes(data[:-1])
    elif damage == "gone":
        shard.unlink()
    else:
        index = shard.with_suffix(".json")
        index.write_text(index.read_text().replace("evaluation", "augmented-1", 1))

    cache, sentence = opened(tmp_path / "cache"), "damaged or missing: run the features command again"
    with pytest.raises(EPALMError, match="lacks draw 0" if damage == "wrong rows" else sentence):
        cache.get(cache.key(items[5].media), 0)
    assert len(cache.get(cache.key(items[0].media), 0)) == 3

    report, cache, said = fill(tmp_path / "cache", items)
    assert (report.encoded, report.present) == (4, 6)
    assert said == [f"{shard} is damaged: its files are encoded again."]
    assert contents(tmp_path / "cache") == whole


def test_an_unreadable_description_of_the_cache_is_refused(tmp_path):
    fill(tmp_path / "cache", pictures(tmp_path / "media", 1))
    (tmp_path / "cache" / "cache.json").write_text("{")
    with pytest.raises(EPALMError, match="cache.json is damaged: remove the folder"):
        opened(tmp_path / "cache")


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"format": 1, "encoder": {}, "recipe": {}}'])
def test_another_file_in_the_place_of_the_description_is_refused(tmp_path, content):
    fill(tmp_path, pictures(tmp_path / "media", 1))
    (tmp_path / "cache.json").write_text(content)
    for use in (opened, cached_widths):
        with pytest.raises(EPALMError, match="cache.json does not say what features were made with"):
            use(tmp_path)


@pytest.mark.parametrize("use", [opened, cached_widths])
def test_a_file_or_a_name_that_is_not_utf8_is_no_cache(tmp_path, use):
    (tmp_path / "file").touch()
    with pytest.raises(EPALMError, match="file is a file: set data.cache to a folder"):
        use(tmp_path / "file")
    with pytest.raises(EPALMError, match="has a name that is not UTF-8"):  # safetensors opens no file in it
        use(tmp_path / "caf\udce9")


@pytest.mark.parametrize("damage", ["torn", "empty", "gone"])
def test_a_training_whose_first_shard_is_damaged_is_told_what_to_do(tmp_path, damage):
    fill(tmp_path, pictures(tmp_path / "media", 1))
    assert cached_widths(tmp_path) == (0, 6, 4)
    [shard] = (tmp_path / "shards").glob("*.safetensors")
    whole = shard.read_bytes()
    shard.unlink()
    if damage != "gone":
        shard.write_bytes(whole[:50] if damage == "torn" else b"")
    with pytest.raises(EPALMError, match=f"{shard} is damaged or missing: run the features command again"):
        cached_widths(tmp_path)
    fill(tmp_path, pictures(tmp_path / "media", 1))
    assert cached_widths(tmp_path) == (0, 6, 4)
    shard.with_suffix(".json").unlink()  # a shard without it is ignored, and so is what is wrong with it
    with pytest.raises(EPALMError, match="is empty: run `python -m train features`"):
        cached_widths(tmp_path)


# Memory and order


def test_the_plan_does_not_depend_on_what_is_there():
    plan = planned_shards([f"k{i}" for i in range(300)], draws=1, batch=100)
    assert [len(shard) for shard in plan] == [200, 200, 200]
    assert plan[1][99:101] == [("k299", 0), ("k0", 1)]


def test_media_are_read_in_order_and_only_so_far_ahead():
    started: list[int] = []

    def read(job):
        started.append(job)
        time.sleep(0.001 * (job % 3))
        if job == 7:
            raise EPALMError("No.")
        return -job

    results = []
    for job, result in read_ahead(range(40), read, workers=4, ahead=6):
        results.append((job, result))
        assert max(started) <= job + 6
    assert [job for job, _ in results] == list(range(40))
    assert isinstance(results[7][1], EPALMError) and results[8][1] == -8


def test_threads_that_read_leave_the_encoder_its_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    running = threading.active_count()
    try:
        assert [n for _, n in read_ahead([0], lambda _: torch.get_num_threads(), 1, 1)] == [1]
        assert torch.get_num_threads() == 2
        assert threading.active_count() == running
    finally:
        torch.set_num_threads(threads)
