"""An explanation as HTML: a self-contained page, or a fragment of another page."""

from __future__ import annotations

import base64
import math
from io import BytesIO

from jinja2 import Environment, PackageLoader
from PIL import Image

from epalm.explain.drawing import attention_maps, layer_names, shade, spotlights
from epalm.explain.explanation import Explanation

TEMPLATES = Environment(
    loader=PackageLoader("epalm.explain", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def as_page(explanation: Explanation, name: str) -> str:
    """A complete page about the answer for the file `name`, with its pictures embedded."""
    return TEMPLATES.get_template("page.html").render(name=name, **_values(explanation))


def as_fragment(explanation: Explanation) -> str:
    """The same without head and body, for use inside another page."""
    return TEMPLATES.get_template("fragment.html").render(**_values(explanation))


def _values(explanation: Explanation) -> dict[str, object]:
    rows = []
    for name, source, values in zip(
        layer_names(explanation.layers), explanation.sources, explanation.contributions, strict=True
    ):
        cells = []
        for value in values:
            colour, ink = shade(float(value), explanation.contributions)
            cells.append((f"{value:+.2f}", "rgb({},{},{})".format(*colour), "rgb({},{},{})".format(*ink)))
        rows.append((name, source, cells))
    probabilities = [percent(math.exp(value)) for value in explanation.log_probabilities]
    attended = attention_maps(explanation)
    return {
        "explanation": explanation,
        "rows": rows,
        "words": list(zip(explanation.words, probabilities, strict=True)),
        "looked": [_data_url(picture) for picture in spotlights(explanation)],
        "attended": [_data_url(picture) for picture in attended or []],
    }


def percent(share: float) -> str:
    """A probability in words that never round to impossible."""
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"


def _data_url(picture: Image.Image) -> str:
    file = BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
