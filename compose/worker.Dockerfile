# The image of worker containers: Debian, the tools that agents use, and the pinned Claude Code CLI.
#
# Built by compose/image, which makes the base, fetches the CLI and checks the outcome. No supervisor in it: the worker
# binary, the configuration and the only way out (a socket) are mounted into the container when it starts. No secrets.
# Works with BuildKit and with the classic builder.
ARG BASE=supervisor-base:bookworm
FROM ${BASE}

# The workspace belongs to somebody else than the agent, which git refuses to read unless told; the container is the wall.
RUN groupadd --gid 1000 agent \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash agent \
 && git config --system --add safe.directory '*'

ENV HOME=/home/agent LANG=C.UTF-8 DISABLE_AUTOUPDATER=1
WORKDIR /home/agent

# 370 MB in a layer of their own: a change above or below does not ship them again.
COPY claude /usr/local/bin/claude

USER 1000:1000
