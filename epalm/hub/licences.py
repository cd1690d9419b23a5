"""The licences of a model's parts, shown wherever a model is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from epalm.config import AdapterConfig
from epalm.hub.wheels import WHEELS
from epalm.hub.zoo import ZOO, licence_notice


def licences(lm: str, encoders: Iterable[str]) -> str:
    """The licence notice of a model with these backbones."""
    ids = list(dict.fromkeys(map(backbone, (lm, *encoders))))
    for preset in ZOO.values():
        if [preset.lm.id, preset.encoder.id] == ids:
            return licence_notice(preset)
    published = {part.id: part for preset in ZOO.values() for part in (preset.lm, preset.encoder)}
    parts: list[str] = []
    for id in ids:
        known = published.get(id) or WHEELS.get(id)
        verb = "" if parts else "is "
        parts.append(
            f"{short(id)} {verb}under {known.licence if known else 'a licence to look up at its source'}"
        )
    notice = f"{', '.join(parts)}."
    if restricted := [short(id) for id in ids if id in published and not published[id].commercial]:
        notice += f" Because of {' and '.join(restricted)}, this model is for non-commercial research only."
    return notice


def licences_of_configs(
    configs: Sequence[AdapterConfig], lm: str | None = None, encoder: str | None = None
) -> str:
    """The licence notice of adapters for one language model; `lm` and `encoder` replace their backbones."""
    encoders = [encoder] if encoder else [config.encoder.id for config in configs]
    return licences(lm or configs[0].lm.id, encoders)


def backbone(id: str) -> str:
    """The id of an encoder's weights: an encoder of frames is an image encoder."""
    return id.removeprefix("frames/")


def short(id: str) -> str:
    """A backbone's name without its owner."""
    return id.split("/")[-1]
