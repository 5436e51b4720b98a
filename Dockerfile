# One image for the service and for the agents; docs/image.md says what is in it, and what BASE may be.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
# For who builds behind a mirror or a proxy: pip reads these.
ARG PIP_INDEX_URL=
ARG PIP_CERT=
COPY requirements.txt /build/
RUN python3 -m venv /opt/nodeobs \
    && /opt/nodeobs/bin/pip install --disable-pip-version-check --no-compile \
        --only-binary=:all: --require-hashes -r /build/requirements.txt
COPY LICENSE app.py gunicorn.conf.py /app/
COPY nodeobs /app/nodeobs
COPY image/layout.py /build/
# The hash seed decides the order of what is compiled into sets.
RUN PYTHONHASHSEED=0 python3 -B /build/layout.py /opt/nodeobs /app /image

FROM scratch
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nodeobs" \
    org.opencontainers.image.description="An alert in, merged profiles of every node's kubelet and container runtime out" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="${BASE}"
# What changes least comes first: a new version of nodeobs is a new last layer.
COPY --from=build /image /
COPY --from=build /opt/nodeobs /opt/nodeobs
COPY --from=build /app /app
# XDG_STATE_HOME and PORT give defaults only (/var/lib/nodeobs, 0.0.0.0:8080): any setting that says otherwise wins.
ENV PATH=/opt/nodeobs/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 XDG_STATE_HOME=/var/lib PORT=8080
WORKDIR /app
VOLUME /var/lib/nodeobs
EXPOSE 8080 8443
# A number: a cluster can see that it is not root. Any other works as well.
USER 65532
CMD ["nodeobs", "serve"]
