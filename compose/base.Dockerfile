# The base image where a registry answers; compose/base-image bootstraps the same from packages where none does.
ARG FROM=debian:bookworm-slim
FROM ${FROM}
ARG PACKAGES
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${PACKAGES} \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
