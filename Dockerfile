# One image for all three roles; deploy/compose.yaml uses it three ways. It needs no writable place but its volume and /tmp.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY src src
COPY sql sql
RUN python -m venv /opt/fabmon && PIP_CONSTRAINT=constraints.txt /opt/fabmon/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/fabmon /opt/fabmon
RUN groupadd --gid 10001 fabmon && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/fabmon --create-home fabmon
ENV PATH=/opt/fabmon/bin:$PATH FABMON_DATA_DIR=/var/lib/fabmon
USER 10001:10001
VOLUME /var/lib/fabmon
# Of the role that is there, by its usual port or by FABMON_PORT; one that serves HTTPS needs a check of its own.
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s CMD ["python", "-c", "import os, sys, urllib.request as r\nfor port in os.environ.get('FABMON_PORT', '8000 18000 19000').split():\n    try: sys.exit(r.urlopen(f'http://127.0.0.1:{port}/readyz', timeout=2).status != 200)\n    except OSError: pass\nsys.exit(1)"]
ENTRYPOINT ["fabmon"]
CMD ["--help"]
