# The serving image: the server, ONNX Runtime, and nothing that only conversion or load tests need.
#   docker build -t farthing . && docker run -p 8001:8001 -p 8002:8002 -v ./models:/models:ro farthing
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE farthing.py ./
COPY service ./service
COPY converter ./converter
COPY loadtests ./loadtests
RUN python -m venv /opt/farthing \
    && /opt/farthing/bin/pip install --no-cache-dir -c constraints.txt ".[cpu]" \
    && /opt/farthing/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="farthing" \
      org.opencontainers.image.description="Verified ONNX variants over gRPC, in Triton's wire format" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/farthing /opt/farthing
# The server sets this itself; here it holds for whatever else runs in the image.
ENV ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/farthing/bin/farthing"]
CMD ["serve", "/models"]
