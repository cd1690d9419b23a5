"""The zoo's table: complete, consistent with the published checkpoints' tensors, honest about licences."""

from dataclasses import replace

import pytest

from epalm.errors import EPALMError
from epalm.hub.zoo import ZOO, fetch_checkpoint, find, licence_notice, table


def test_lists_the_ten_published_adapters():
    small = ("audiocaps", "coco-caption", "gqa", "msrvtt-caption", "msrvtt-qa", "msvd-qa", "vqa")
    large = ("coco-caption", "gqa", "vqa")
    assert sorted(ZOO) == sorted([f"{n}-opt-2.7b" for n in small] + [f"{n}-opt-6.7b" for n in large])
    assert all(name == preset.name for name, preset in ZOO.items())


def test_base_checkpoints_have_six_connectors_and_a_soft_prompt_with_mlp():
    for preset in (p for p in ZOO.values() if p.lm.id == "facebook/opt-2.7b"):
        expected = {f"connector.{i}.weight": (2560, 768) for i in range(6)}
        expected |= {f"connector.{i}.bias": (2560,) for i in range(6)}
        expected["prompt_module.prefix_embedding.0.weight"] = (10, 2560)
        for i in (1, 3):
            expected[f"prompt_module.prefix_embedding.{i}.weight"] = (2560, 2560)
            expected[f"prompt_module.prefix_embedding.{i}.bias"] = (2560,)
        assert preset.key_shapes == expected
        assert f"{preset.trainable / 1e6:.2f}" == "24.95"
        assert preset.megabytes == 299  # the size that the Hub shows for these files


def test_large_checkpoints_have_one_shared_connector_and_a_plain_soft_prompt():
    for name in ("vqa-opt-6.7b", "coco-caption-opt-6.7b", "gqa-opt-6.7b"):
        assert ZOO[name].key_shapes == {
            "connector.0.weight": (4096, 1024),
            "connector.0.bias": (4096,),
            "prompt_module.prefix_embedding.0.weight": (10, 4096),
        }
        assert f"{ZOO[name].trainable / 1e6:.2f}" == "4.24"
        assert ZOO[name].megabytes == 51


def test_injection_is_that_of_the_paper():
    for preset in ZOO.values():
        assert (preset.start_layer, preset.end_layer, preset.injected) == (19, 31, 6)
        assert preset.feature_layers == (-6, -5, -4, -3, -2, -1)
        assert preset.end_layer <= preset.lm.layers and preset.injected <= preset.encoder.layers
        assert preset.config.injection.mask == "reference" and preset.prompt_length == 10
        assert (preset.generation.num_beams, preset.generation.max_length) == (3, 30)


def test_template_follows_the_task_and_frames_follow_the_modality():
    for preset in ZOO.values():
        assert preset.template == {"caption": "", "qa": "{question}?</a>"}[preset.task]
        assert (preset.num_frames is not None) == (preset.modality == "video")
        expected = {"image": "epalm", "video": "epalm-video", "audio": "epalm-audio"}[preset.modality]
        assert preset.config.recipe["name"] == expected
    frames = [ZOO[f"{n}-opt-2.7b"].num_frames for n in ("msrvtt-caption", "msrvtt-qa", "msvd-qa")]
    assert frames == [16, 8, 8]


def test_every_source_is_https_and_used_once_and_known_hashes_are_sha256():
    sources = [source for preset in ZOO.values() for source in preset.sources]
    assert len({source.url for source in sources}) == len(sources) == 20
    assert all(source.url.startswith("https://") for source in sources)
    assert sum(source.sha256 is not None for source in sources) == 2
    assert all(len(source.sha256) == 64 for source in sources if source.sha256)


def test_revisions_are_full_commit_hashes():
    for backbone in {p.lm for p in ZOO.values()} | {p.encoder for p in ZOO.values()}:
        assert backbone.revision is None or len(backbone.revision) == 40


def test_licence_notice_names_each_restriction():
    assert licence_notice(ZOO["vqa-opt-2.7b"]) == (
        "OPT-2.7B is under the OPT-175B licence (non-commercial research), ViT-B/16 under Apache-2.0. "
        "Because of OPT-2.7B, this model is for non-commercial research only."
    )
    assert "CC-BY-NC 4.0" in licence_notice(ZOO["msvd-qa-opt-2.7b"])
    assert "BSD-3-Clause" in licence_notice(ZOO["audiocaps-opt-2.7b"])
    assert all("non-commercial" in row["licence"] for row in table())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("coco-caption-opt-2.7", "coco-caption-opt-2.7b"), ("VQA-OPT-6.7B", "vqa-opt-6.7b"), ("?", None)],
)
def test_unknown_name_suggests_the_closest(typed, meant):
    with pytest.raises(EPALMError, match=f"did you mean '{meant or ''}"):
        find(typed)
    assert meant is None or find(meant) is ZOO[meant]


def test_table_has_a_row_of_text_per_adapter():
    rows = table()
    assert [row["name"] for row in rows] == list(ZOO)
    assert all(isinstance(value, str) for row in rows for value in row.values())
    row = rows[list(ZOO).index("coco-caption-opt-2.7b")]
    assert (row["reported"], row["download"], row["trained parameters"]) == ("CIDEr 97", "299 MB", "24.95 M")


def test_without_a_source_the_sentence_says_how_to_use_a_local_copy(tmp_path):
    preset = replace(ZOO["vqa-opt-2.7b"], sources=())
    with pytest.raises(EPALMError) as error:
        fetch_checkpoint(preset, tmp_path)
    assert str(error.value) == (
        "No download source of vqa-opt-2.7b is known; with a copy of the checkpoint, run "
        "`python -m epalm convert CHECKPOINT OUT --preset vqa-opt-2.7b`."
    )
