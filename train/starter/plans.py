"""How each of the starter's adapters is trained: settings like those of any training, one per stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from epalm.config import FeatureLayer, GenerationConfig, TaskConfig
from train.settings import Data, Model, Optim, Settings
from train.starter import examples
from train.starter.clips import batches as clips
from train.starter.clips.features import ENCODER as CLIP_ENCODER
from train.starter.distil import PHOTOS, WIDE, Spread
from train.starter.pictures import batches as pictures
from train.starter.pictures.features import ENCODER as PICTURE_ENCODER
from train.starter.scale import Scale
from train.starter.sounds import batches as sounds
from train.starter.sounds.features import ENCODER as SOUND_ENCODER

LM = "starter/smollm2-135m-instruct"


@dataclass(frozen=True)
class Stage:
    """A part of an adapter's training: a run of `fit` in a folder of its own.

    Attributes:
        steps: of the optimizer.
        spread: how varied its batches are.
    """

    name: str
    settings: Settings
    steps: int
    spread: Spread

    def part(self, scale: Scale) -> Stage:
        """The same with a share of its steps."""
        steps = scale.training(self.steps)
        often = min(self.settings.optim.save_every, max(1, steps // 4))
        optim = replace(self.settings.optim, save_every=often)
        return replace(self, steps=steps, settings=replace(self.settings, optim=optim))


@dataclass(frozen=True)
class Plan:
    """One adapter.

    Attributes:
        widths: of the encoder's layers.
    """

    widths: tuple[int, ...]
    stages: tuple[Stage, ...]

    @property
    def settings(self) -> Settings:
        return self.stages[0].settings

    @property
    def task(self) -> TaskConfig:
        return self.settings.task

    @property
    def name(self) -> str:
        return f"{self.task.modality}-{self.task.name}"


def shape(
    encoder: str,
    layers: tuple[FeatureLayer, ...],
    prompt: str,
    prompt_length: int,
    start: int,
    end: int,
    deep_from: int | None = None,
) -> Model:
    """An adapter for the starter's LM whose soft prompt starts as a text of so many tokens."""
    return Model(
        LM,
        encoder,
        "starter",
        layers,
        start,
        end,
        prompt_length=prompt_length,
        prompt_mlp=False,
        prompt_text=prompt,
        prompt_deep_from=deep_from,
    )


def stage(
    name: str,
    task: TaskConfig,
    model: Model,
    spread: Spread,
    steps: int,
    batch: int,
    lr: float,
    prompt_lr: float,
    warmup: int = 50,
    decay: float = 0.05,
) -> Stage:
    """A stage in bfloat16. Its batches are drawn, not read from manifests; all of its steps are one epoch."""
    settings = Settings(
        model=model,
        task=task,
        data=Data(f"own_{task.modality}_{task.name}", train="drawn", val="held out"),
        optim=Optim(
            epochs=1,
            batch=batch,
            lr=lr,
            prompt_lr=prompt_lr,
            warmup=warmup / steps,
            weight_decay=decay,
            precision="bf16",
            seed=0,
            save_every=100,
        ),
        generation=GenerationConfig(num_beams=1, max_new_tokens=24 if task.name == "caption" else 20),
        out=f"runs/starter/{name}",
    )
    return Stage(name, settings, steps, spread)


# Questions are asked after worked examples: without them the LM does not compare what it is asked for with
# what is there. What enters must enter early, below the layers that compare.
PICTURE_EXAMPLES = (
    "The picture shows a tench.\nQuestion: is this a dog?\nAnswer: no\n\n"
    "The picture shows a red bus.\nQuestion: is this a bus?\nAnswer: yes\n\nThe picture shows"
)
CLIP_EXAMPLES = (
    "The video shows a tench.\nQuestion: is this a dog?\nAnswer: no\n\n"
    "The video shows a ball moving up.\nQuestion: what happens?\nAnswer: moving up\n\nThe video shows"
)
SOUND_EXAMPLES = (
    "You can hear a siren.\nQuestion: is this a piano?\nAnswer: no\n\n"
    "You can hear rain.\nQuestion: is this rain?\nAnswer: yes\n\nYou can hear"
)
PICTURE_CAPTION = shape(
    PICTURE_ENCODER,
    pictures.LAYERS["caption"],
    "Look at the photo. Say in a few words what it shows.",
    14,
    4,
    28,
)
# What is usual in rooms is learned faster by a deep prompt than by one at the input alone.
PICTURE_QA = shape(PICTURE_ENCODER, pictures.LAYERS["qa"], PICTURE_EXAMPLES, 45, 4, 28, deep_from=4)
CLIP_CAPTION = shape(
    CLIP_ENCODER, clips.LAYERS, "Look at the video. Say in a few words what it shows.", 14, 4, 29
)
CLIP_QA = shape(CLIP_ENCODER, clips.LAYERS, CLIP_EXAMPLES, 45, 4, 24)
SOUND_CAPTION = shape(
    SOUND_ENCODER, sounds.LAYERS, "Listen to the recording. Say in a few words what you hear.", 14, 4, 28
)
SOUND_QA = shape(SOUND_ENCODER, sounds.LAYERS, SOUND_EXAMPLES, 42, 4, 20)
MIXED = replace(WIDE, mix=0.2)
MORE_NAMES = replace(PHOTOS, share=("scenes", 0.2))  # short texts, many classes
MORE_ROOMS = replace(PHOTOS, share=("rooms", 0.42))  # in the end: their questions are learned slowest

PLANS = (
    Plan(
        pictures.WIDTHS,
        (
            stage("caption", examples.CAPTION, PICTURE_CAPTION, PHOTOS, 1700, 256, 1e-3, 2e-3, decay=0.1),
            stage("caption-end", examples.CAPTION, PICTURE_CAPTION, PHOTOS, 800, 256, 5e-4, 1e-3, decay=0.1),
            stage(
                "caption-names", examples.CAPTION, PICTURE_CAPTION, MORE_NAMES, 270, 28, 5e-4, 1e-3, 20, 0.1
            ),
        ),
    ),
    Plan(
        pictures.WIDTHS,
        (
            stage("qa", examples.QA, PICTURE_QA, PHOTOS, 1000, 224, 1e-3, 2e-3, decay=0.1),
            stage("qa-end", examples.QA, PICTURE_QA, MORE_ROOMS, 740, 224, 6e-4, 1e-3, decay=0.1),
        ),
    ),
    Plan(
        (1280, 175, 1000),
        (stage("video-caption", clips.CAPTION, CLIP_CAPTION, WIDE, 1000, 192, 1e-3, 2e-3, decay=0.1),),
    ),
    Plan(
        (1280, 175, 1000),
        (stage("video-qa", clips.QA, CLIP_QA, WIDE, 900, 176, 1e-3, 2e-3, decay=0.1),),
    ),
    Plan(
        (*(1152,) * 3, 768),
        (stage("audio-caption", sounds.CAPTION, SOUND_CAPTION, MIXED, 900, 192, 1e-3, 2e-3, decay=0.1),),
    ),
    Plan(
        (*(1152,) * 3, 768),
        (stage("audio-qa", sounds.QA, SOUND_QA, MIXED, 800, 192, 1e-3, 2e-3, decay=0.1),),
    ),
)
