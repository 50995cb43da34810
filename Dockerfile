# Images of farthing, by target: cpu (the default) and gpu serve, convert publishes models, loadtest measures.
#   make image TARGET=cpu        or: docker build --target cpu -t farthing:cpu .
#   docker run --read-only -p 8001:8001 -p 8002:8002 -v ./models:/models:ro farthing:cpu
ARG BASE=python:3.11-slim-bookworm

# Apart from what installs it: a change of pyproject.toml that asks for nothing new installs nothing anew.
FROM ${BASE} AS requirements
WORKDIR /src
COPY .ci/requirements.py pyproject.toml ./
RUN python requirements.py cpu tracing > cpu.txt \
    && python requirements.py gpu tracing > gpu.txt \
    && python requirements.py cpu keras sklearn > convert.txt \
    && python requirements.py loadtest > loadtest.txt

FROM ${BASE} AS empty
# A mirror of PyPI, if you have one: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY .ci/install.sh constraints.txt ./
RUN python -m venv --without-pip /opt/farthing

FROM empty AS cpu-packages
COPY --from=requirements /src/cpu.txt ./
RUN sh install.sh cpu.txt \
    && find /opt/farthing -type d -name tests -prune -exec rm -r {} +

FROM empty AS gpu-packages
COPY --from=requirements /src/gpu.txt ./
# CUDA's wheels lie where the loader does not look.
RUN sh install.sh gpu.txt \
    && find /opt/farthing -type d -name tests -prune -exec rm -r {} + \
    && mkdir /opt/farthing/cuda \
    && ln -s /opt/farthing/lib/python3.*/site-packages/nvidia/*/lib/*.so* /opt/farthing/cuda

FROM empty AS convert-packages
COPY --from=requirements /src/convert.txt ./
RUN sh install.sh convert.txt

FROM empty AS loadtest-packages
COPY --from=requirements /src/loadtest.txt ./
RUN sh install.sh loadtest.txt

# Our code, to be laid over the packages of any target.
FROM empty AS code
COPY pyproject.toml README.md LICENSE farthing.py ./
COPY service ./service
COPY converter ./converter
COPY loadtests ./loadtests
# pip reads the one or the other for what builds a package, by its version.
RUN PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
        pip --python /opt/farthing/bin/python install --quiet --no-cache-dir --no-compile --no-deps --prefix /code . \
    && python -m compileall -q --invalidation-mode unchecked-hash -s /code -p /opt/farthing /code

FROM ${BASE} AS runtime
# Whoever gets in finds nothing to install more with. And the official image brings its standard library without
# bytecode, which nobody could write later: 13 MB, for half of the second that a start would take.
RUN python -c "import ensurepip, os, pip, shutil; \
        [shutil.rmtree(path) for path in (os.path.dirname(pip.__path__[0]), ensurepip.__path__[0])]" \
    && rm -f /usr/local/bin/pip* /usr/bin/pip* \
    && python -m compileall -qq --invalidation-mode unchecked-hash -x 'idlelib|lib2to3|tkinter|turtledemo|/tests?/' \
        "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="farthing" \
      org.opencontainers.image.description="Verified ONNX variants over gRPC, in Triton's wire format, with what they cost" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
# farthing turns telemetry off itself; here it is off for whatever else runs in the image.
ENV ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/farthing/bin/farthing"]

# Its users mount what is read and written at /work.
FROM runtime AS convert
ENV HOME=/tmp
WORKDIR /work
COPY --from=convert-packages /opt/farthing /opt/farthing
COPY --from=code /code /opt/farthing
CMD ["convert", "--help"]

FROM runtime AS loadtest
ENV HOME=/tmp
WORKDIR /work
COPY --from=loadtest-packages /opt/farthing /opt/farthing
COPY --from=code /code /opt/farthing
CMD ["load", "--help"]

FROM runtime AS gpu
# What NVIDIA's container runtime asks of an image that is not NVIDIA's.
# And who runs this image wants a GPU: where there is none, the server ends, and does not crawl on the CPU.
ENV FARTHING_DEVICE=cuda \
    LD_LIBRARY_PATH=/opt/farthing/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-packages /opt/farthing /opt/farthing
COPY --from=code /code /opt/farthing
EXPOSE 8001 8002
CMD ["serve", "/models"]

# Last, so that `docker build .` makes it.
FROM runtime AS cpu
COPY --from=cpu-packages /opt/farthing /opt/farthing
COPY --from=code /code /opt/farthing
EXPOSE 8001 8002
CMD ["serve", "/models"]
