# devpi-server and its sidecar, from scratch. Targets: `devpi` (the default), `devpi-web` (with the web interface and
# search), `debug` (with a shell), `test` (with the test suite). docs/docker.md tells more.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# Security updates that the base image doesn't have yet: what the image takes from here must have them. A version named
# here would vanish from Debian's mirrors with its next point release.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get upgrade --yes --no-install-recommends \
 && apt-get install --yes --no-install-recommends binutils busybox-static ca-certificates tini \
 && rm -rf /var/lib/apt/lists/*

# uv, and what builds the project. Every download here and below is checked against its hash in a lock file.
FROM build AS tools
COPY requirements-tools.lock /build/
RUN python3 -m venv --without-pip /tools \
 && python3 -m pip --python /tools/bin/python3 install --no-cache-dir --require-hashes --only-binary :all: \
        --requirement /build/requirements-tools.lock
ENV PATH=/tools/bin:$PATH \
    UV_BUILD_CONSTRAINT=/build/requirements-tools.lock \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=true \
    UV_PYTHON_DOWNLOADS=never \
    UV_SYSTEM_CERTS=true

FROM tools AS environment
ARG LOCK=requirements.lock
WORKDIR /build
COPY requirements.lock ${LOCK} ./
# Twice: what everyone gets comes as wheels alone; what a plugin adds may have to be built (pyramid-chameleon has no wheel).
RUN uv venv --no-project --python python3 /opt/devpi \
 && uv pip sync --python /opt/devpi --require-hashes --only-binary :all: requirements.lock \
 && uv pip install --python /opt/devpi --require-hashes --require-build-hashes --requirements "${LOCK}"

FROM environment AS environment-web
COPY requirements-web.lock ./
RUN uv pip install --python /opt/devpi --require-hashes --require-build-hashes --requirements requirements-web.lock

# Each of these two installs the project and assembles /rootfs by docker/rootfs.py.
FROM environment AS rootfs
COPY pyproject.toml setup.py README.md LICENSE entrypoint.py ./
COPY sidecar sidecar
COPY docker/rootfs.py docker/python_files.py docker/system_files.py docker/trimmed.py docker/
ARG UID=1000
ARG GID=1000
ARG SOURCE_DATE_EPOCH
# Without a fixed seed the order in a set decides about the bytecode.
RUN uv pip install --python /opt/devpi --no-deps --require-build-hashes . \
 && cp entrypoint.py /opt/devpi/ \
 && PYTHONHASHSEED=0 python3 docker/rootfs.py --environment /opt/devpi --uid "${UID}" --gid "${GID}" /rootfs

FROM environment-web AS rootfs-web
COPY pyproject.toml setup.py README.md LICENSE entrypoint.py ./
COPY sidecar sidecar
COPY docker/rootfs.py docker/python_files.py docker/system_files.py docker/trimmed.py docker/
ARG UID=1000
ARG GID=1000
ARG SOURCE_DATE_EPOCH
RUN uv pip install --python /opt/devpi --no-deps --require-build-hashes . \
 && cp entrypoint.py /opt/devpi/ \
 && PYTHONHASHSEED=0 python3 docker/rootfs.py --environment /opt/devpi --uid "${UID}" --gid "${GID}" /rootfs

# What all images have in common beside their files.
FROM scratch AS settings
ARG UID=1000
ARG GID=1000
# A uid without an entry in /etc/passwd has no home: the devpi client keeps its login there.
ENV PATH=/opt/devpi/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER ${UID}:${GID}
EXPOSE 3141 3142
STOPSIGNAL SIGTERM
# While it starts or imports, for hours maybe, the check itself waits (and needs its timeout); it fails once the import
# has. A start period would hide that failure. It is as long as the first check needs to come soon.
HEALTHCHECK --start-period=5s --start-interval=1s --interval=10s --timeout=168h --retries=3 CMD ["sidecar", "healthcheck", "--wait"]
# Until the entrypoint has its handlers, some 20 ms after the start, a stop would be lost or kill it: env has it wait.
ENTRYPOINT ["env", "--block-signal=TERM,INT", "tini", "--", "python3", "/opt/devpi/entrypoint.py"]
ARG VERSION=0.1.0
ARG REVISION=unknown
# Labels that are empty where the build is not told; docs/docker.md has the command that tells all of them.
ARG CREATED=
ARG SOURCE=
ARG URL=
ARG PYTHON_IMAGE
ARG PYTHON_IMAGE_DIGEST=
LABEL org.opencontainers.image.title="devpi-sidecar" \
      org.opencontainers.image.description="devpi-server with a sidecar for initialisation, import, health and status" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${URL}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.base.digest="${PYTHON_IMAGE_DIGEST}"

FROM settings AS devpi-web
COPY --from=rootfs-web /rootfs /
VOLUME /var/lib/devpi

FROM settings AS plain
COPY --from=rootfs /rootfs /
VOLUME /var/lib/devpi

FROM build AS shell
RUN mkdir /debug && cp /bin/busybox /debug/ && /debug/busybox --install -s /debug

FROM plain AS debug
COPY --from=shell /debug /debug
ENV PATH=/opt/devpi/bin:/usr/local/bin:/usr/bin:/bin:/debug

FROM tools AS test-packages
COPY requirements-dev.lock /build/
RUN uv pip install --python python3 --target /packages --require-hashes --only-binary :all: \
        --requirements /build/requirements-dev.lock
# The tests look for the package beside them.
RUN mkdir /links && ln -s "lib/python$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')/site-packages/sidecar" /links/sidecar

# The same files, and the tests of them: what was left out is proven to be needless.
FROM debug AS test
COPY --from=test-packages /packages /opt/devpi/plugins
COPY pyproject.toml /opt/devpi/
COPY testbed /opt/devpi/testbed
COPY tests /opt/devpi/tests
COPY --from=test-packages /links /opt/devpi
WORKDIR /opt/devpi
ENV HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
HEALTHCHECK NONE
ENTRYPOINT ["tini", "--", "python3", "-m", "pytest", "-p", "no:cacheprovider"]

FROM plain AS devpi
