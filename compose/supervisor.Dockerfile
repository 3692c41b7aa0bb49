# The supervisor itself as an image, for compose/compose.yaml. Built by `make service-image`, which puts the two release
# binaries into the context: Rust is built on the host, where its registry and certificates are set up.
ARG BASE=supervisor-base:bookworm
FROM ${BASE}
COPY supervisor /usr/local/bin/supervisor
COPY worker /usr/local/lib/supervisor/worker
# No USER: it owns the engine's socket and hands folders to the workers' user, which makes it root in all but name.
ENTRYPOINT ["supervisor"]
CMD ["up"]
