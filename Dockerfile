# One image for all three roles: docker run fabmon serve --role local --host 0.0.0.0 --allow-anonymous
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY src src
COPY sql sql
RUN python -m venv /opt/fabmon && PIP_CONSTRAINT=constraints.txt /opt/fabmon/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/fabmon /opt/fabmon
RUN useradd --system --uid 10001 --home-dir /var/lib/fabmon --create-home fabmon
ENV PATH=/opt/fabmon/bin:$PATH FABMON_DATA_DIR=/var/lib/fabmon
USER fabmon
VOLUME /var/lib/fabmon
ENTRYPOINT ["fabmon"]
CMD ["--help"]
