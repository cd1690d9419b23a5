"""How programs use the service, on the page: each endpoint, and one call in three languages."""

from __future__ import annotations

from epalm.demo.models import Models
from epalm.demo.problems import TITLES

HERE = "http://127.0.0.1:7860"  # the page puts its own address in

CALLS = """
**Python** (`pip install gradio_client`)

```python
from gradio_client import Client, handle_file

client = Client("HERE")
text, took = client.predict(handle_file("PHOTO"), "what is this?", api_name="/ask_MODALITY")
```

**curl**: upload, ask, then read the events of the answer

```bash
FILE=$(curl -s -F files=@PHOTO HERE/gradio_api/upload | cut -d'"' -f2)
ID=$(curl -s HERE/gradio_api/call/v2/caption_MODALITY -H 'Content-Type: application/json' \\
  -d '{"media": {"path": "'"$FILE"'", "meta": {"_type": "gradio.FileData"}}}' | cut -d'"' -f4)
curl -sN HERE/gradio_api/call/v2/caption_MODALITY/$ID
```

**JavaScript** (`npm install @gradio/client`)

```javascript
import { Client, handle_file } from "@gradio/client";

const client = await Client.connect("HERE");
const answer = await client.predict("/caption_MODALITY", [handle_file("PHOTO"), 1, 0]);
```
"""

FILES = {"image": "photo.jpg", "video": "clip.mp4", "audio": "sound.wav"}


def snippets(models: Models) -> str:
    """Endpoints and calls, as Markdown."""
    rows = []
    for modality in models.modalities:
        tasks = {task for offer in models.offers.values() for task in offer.tasks(modality)}
        if "caption" in tasks:
            rows.append(f"| `/caption_{modality}` | file, beams, longest text, model | text, time taken |")
        if "qa" in tasks:
            rows.append(
                f"| `/ask_{modality}` | file, question, beams, longest text, model | text, time taken |"
            )
        if modality != "image":
            name, gives = ("frames", "frames") if modality == "video" else ("spectrogram", "spectrogram")
            rows.append(f"| `/{name}` | file, mode, model | {gives}, a sentence |")
    rows.append("| `/explain` | file, question or nothing, beams, longest text, model | HTML, numbers |")
    modality = models.modalities[0]
    calls = CALLS.replace("MODALITY", modality).replace("@PHOTO", f"@{FILES[modality]}").replace("HERE", HERE)
    calls = calls.replace("PHOTO", FILES[modality])
    codes = ", ".join(f"`{code}`" for code in TITLES)
    return (
        "| endpoint | takes | gives |\n|---|---|---|\n" + "\n".join(rows) + "\n" + calls + "\n"
        "Captions and answers stream: each event has the text so far. A problem is one sentence; the code in "
        f"brackets at the end of its title is one of {codes}. `/health` says whether the service is up, "
        "`/metrics` counts for Prometheus. With `--mcp`, every endpoint is a tool under `/gradio_api/mcp/`."
    )
