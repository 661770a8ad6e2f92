# The README's two commands on a CPU. Built with buildah, without a Docker engine and without Docker Hub: from a Debian 12
# with Python 3.11 in /usr/local, as python:3.11-slim is. Both commands passed in that image.
#
#   docker build -t gap_vla .
#   docker run --rm -v "$PWD/data:/gap_vla/data" -v "$PWD/runs:/gap_vla/runs" gap_vla     # make finetune
#   docker run --rm gap_vla make test
FROM python:3.11-slim

# make and a compiler (evdev, which robosuite needs, is compiled), offscreen OpenGL, and what OpenCV loads.
RUN apt-get update && apt-get install -y --no-install-recommends \
        make git gcc libc6-dev linux-libc-dev \
        libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /gap_vla
COPY . .
RUN make setup

CMD ["make", "finetune"]
