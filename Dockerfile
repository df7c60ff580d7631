# Three stages: the viewer (needs Node), the environment (needs pip), and what runs (needs neither).
# Everything installed is locked by digest: requirements/*.lock for Python, viewer/package-lock.json for the viewer.

FROM node:20-bookworm-slim AS viewer
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /src/viewer
COPY viewer/ ./
RUN python3 build.py --out dist

FROM python:3.11-slim-bookworm AS environment
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/readgate
ENV PATH=/opt/readgate/bin:$PATH
WORKDIR /src
COPY requirements/ requirements/
RUN pip install --require-hashes --only-binary :all: -r requirements/build.lock \
    && pip install --require-hashes --only-binary :all: -r requirements/all.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY crypto/ crypto/
COPY compliance/ compliance/
COPY worklist/ worklist/
COPY reporting/ reporting/
COPY gateway/ gateway/
COPY --from=viewer /src/viewer viewer/
RUN pip install --no-deps --no-build-isolation . ./viewer \
    && pip uninstall --yes setuptools \
    && pip check

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin readgate \
    && install -d -o readgate -g readgate -m 0700 /data
COPY --from=environment /opt/readgate /opt/readgate
ENV PATH=/opt/readgate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER readgate
VOLUME /data
# DICOM over TLS, web. There is no plaintext DICOM port in a container unless the configuration says so aloud.
EXPOSE 2762 8080
# For the roles "all" and "web"; compose.yaml replaces it for the others.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/login', timeout=4)"]
ENTRYPOINT ["readgate"]
CMD ["serve", "--role", "all", "--data", "/data"]
