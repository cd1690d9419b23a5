"""The demo: a page and an API around loaded models.

Only this package imports Gradio, and the rest of `epalm` never imports it.

texts, theme, snippets     what the page says and how it looks
page, media_tab, panels    the page
handlers                   what its buttons and endpoints do
models                     which models are offered, loading them, what is known of each
flow, limits, problems     who comes in, what is refused, how it is said
uploads, history           files of a visit, and its answers
server, metrics, logs      the web server around it
options                    the command line and the environment
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
