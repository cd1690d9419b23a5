"""The demo: a page that describes pictures, videos and sounds and answers questions about them.

    python app.py                               # http://127.0.0.1:7860, the starter model
    python app.py --model coco-caption-opt-2.7b --device cuda --dtype float16
    python app.py --also my-adapter             # both can be chosen on the page, and compared
    python app.py --model my-adapter --host 0.0.0.0 --port 8000

What the page does, programs can do, too:

    from gradio_client import Client, handle_file
    text, time_taken = Client("http://127.0.0.1:7860").predict(
        handle_file("photo.jpg"), "what is this?", api_name="/ask_image"
    )

The endpoints of the other tabs are /caption_video, /ask_video, /caption_audio and /ask_audio; /frames and
/spectrogram give what the model perceives. The page shows how to call them from other languages.
"""

import sys

from epalm.startup import importing

if __name__ == "__main__":
    with importing():
        from epalm.demo.server import main

    sys.exit(main(description=__doc__))
