# devpi-server and its sidecar. `docker build .`, or with the web interface and search:
# `docker build --build-arg LOCK=requirements-web.lock .`
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ARG LOCK=requirements.lock
WORKDIR /build
COPY requirements.lock ${LOCK} ./
# Twice: what everyone gets comes as wheels alone. What the extra adds (pyramid-chameleon has no wheel) is built with
# the setuptools that the first step verified, not with one that an isolated build would fetch unverified.
RUN python3 -m venv --without-pip /opt/devpi \
 && python3 -m pip --python /opt/devpi/bin/python3 install --no-cache-dir --no-compile --require-hashes \
        --only-binary :all: --requirement requirements.lock \
 && python3 -m pip --python /opt/devpi/bin/python3 install --no-cache-dir --no-compile --require-hashes \
        --no-build-isolation --requirement "${LOCK}"
COPY pyproject.toml README.md LICENSE ./
COPY sidecar sidecar
RUN python3 -m pip --python /opt/devpi/bin/python3 install --no-cache-dir --no-compile --no-deps --no-build-isolation .
COPY entrypoint.py /opt/devpi/
# Nobody may write here later, so Python never has to look whether a source is newer than its bytecode. Excluded are
# templates that are no Python yet.
RUN /opt/devpi/bin/python3 -m compileall -q --invalidation-mode unchecked-hash -x '/(templates|tests?)/' /opt/devpi/lib

FROM ${PYTHON_IMAGE}
# A version of tini named here would vanish from Debian's mirrors with its next point release.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache
# The official image has no bytecode of the standard library, and the later user can't write any: 1 s of each start.
# pip has no use here; where it lives, this Python knows.
RUN python3 - <<'REMOVE_PIP' && python3 -m compileall -q -x '/(tests?|idlelib|lib2to3|(site|dist)-packages)/' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
import importlib.util, pathlib, shutil, sysconfig

for name in ("pip", "ensurepip"):
    if spec := importlib.util.find_spec(name):
        package = pathlib.Path(spec.origin).parent
        shutil.rmtree(package)
        for metadata in package.parent.glob(f"{name}-*.dist-info"):
            shutil.rmtree(metadata)
for folder in {sysconfig.get_path("scripts"), "/usr/bin", "/usr/local/bin"}:
    for script in pathlib.Path(folder).glob("pip*"):
        script.unlink()
if wheels := sysconfig.get_config_var("WHEEL_PKG_DIR"):  # Debian's, for ensurepip
    shutil.rmtree(wheels, ignore_errors=True)
REMOVE_PIP

ARG UID=1000
ARG GID=1000
# Group 0 may do what the owner may: OpenShift and the like run the image with any uid, but in that group. A new named
# volume takes its owner and mode from the folder here.
RUN echo "devpi:x:${UID}:${GID}:devpi:/tmp:/usr/sbin/nologin" >>/etc/passwd \
 && { getent group "${GID}" >/dev/null || echo "devpi:x:${GID}:" >>/etc/group; } \
 && install --directory --owner="${UID}" --group=0 --mode=0770 /var/lib/devpi \
 && install --directory --owner="${UID}" --group=0 --mode=0775 /devpi-init.d
COPY --from=build /opt/devpi /opt/devpi

# A uid without an entry in /etc/passwd has no home: the devpi client keeps its login there.
ENV PATH=/opt/devpi/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER ${UID}:${GID}
EXPOSE 3141 3142
VOLUME /var/lib/devpi
STOPSIGNAL SIGTERM
# An import may take hours and is no illness: within the start period failures don't count, and the first success
# ends it.
HEALTHCHECK --start-period=24h --start-interval=1s --interval=10s --timeout=5s --retries=3 CMD ["sidecar", "healthcheck"]
ENTRYPOINT ["tini", "--", "python3", "/opt/devpi/entrypoint.py"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="devpi-sidecar" \
      org.opencontainers.image.description="devpi-server with a sidecar for initialisation, import, health and status" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
