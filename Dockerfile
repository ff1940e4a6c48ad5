# tsuika on the processor. How to use it: docs/systems.md
#   docker build -t tsuika .
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
# Where the default index has builds with CUDA, many times as large, name one of builds for the processor:
#   docker build --build-arg TORCH_FLAGS="--index-url ..." -t tsuika .
ARG TORCH_FLAGS=""
# hadolint ignore=SC2086
RUN pip install --no-cache-dir $TORCH_FLAGS torch==2.13.0
RUN --mount=from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[heif,search,caption]"
# Runs, and in cache/ what is encoded or downloaded; a new volume has this owner.
RUN useradd --create-home --uid 1000 tsuika && install --directory --owner=tsuika --group=tsuika /data
USER 1000
ENV XDG_CACHE_HOME=/data/cache HF_HOME=/data/cache/huggingface PYTHONUNBUFFERED=1
WORKDIR /data
VOLUME /data
EXPOSE 7878
ENTRYPOINT ["tsuika"]
CMD ["--help"]
