# docker build -t bge-embedding-api .                                        with the model
# docker build -t bge-embedding-api:bare --target without-model .            the model is mounted
FROM python:3.11.14-slim-bookworm AS kernel
# A mirror of the package index, for where the public one cannot be reached.
ARG PIP_INDEX_URL
WORKDIR /kernel
COPY pyproject.toml /
COPY embedding_api/encoder/kernel ./
# If the compiler cannot be installed, the image has no kernel, and the service says why at its start.
RUN pip install --no-cache-dir "$(grep -o 'ziglang==[0-9.]*' /pyproject.toml)"; python build.py || true

FROM python:3.11.14-slim-bookworm AS packages
# The CPU build of torch; the standard one would add gigabytes of CUDA packages.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/app/venv/bin:$PATH
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN python -m venv venv \
    && pip install --no-compile --no-deps --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.txt)" \
    && pip install --no-compile -r requirements.txt -c constraints.txt \
    && pip uninstall --yes pip
# Delete what is needed only to build or test these packages.
WORKDIR /app/venv/lib/python3.11/site-packages
RUN find torch/bin -type f ! -name torch_shm_manager -delete \
    && rm -rf torch/include torch/share torch/test pyarrow/include \
    && find numpy pyarrow scipy sklearn sympy networkx -type d -name tests -prune -exec rm -r {} +
WORKDIR /app
# Compile what the service imports; bytecode of all packages would be three times as much.
RUN python -c "import click, flask, flask_cors, gunicorn.app.wsgiapp, gunicorn.workers.sync, joblib, marshmallow, \
apispec.ext.marshmallow, prometheus_client.multiprocess, pyarrow.parquet, sentence_transformers, \
transformers.models.bert.modeling_bert, tqdm"

FROM packages AS model
# A mirror of the Hugging Face Hub.
ARG HF_ENDPOINT
COPY embedding_api embedding_api
RUN HF_HOME=/huggingface python -m embedding_api download && chmod -R a+rX /huggingface

FROM python:3.11.14-slim-bookworm AS without-model
# A Hugging Face Space runs the container as user 1000.
RUN useradd --create-home --uid 1000 app
WORKDIR /app
COPY --from=packages /app/venv venv
COPY LICENSE gunicorn.conf.py wsgi.py ./
COPY embedding_api embedding_api
COPY --from=kernel /kernel embedding_api/encoder/kernel
ENV PATH=/app/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HF_HOME=/huggingface
RUN python -m compileall -q embedding_api
USER 1000
# The only folder that can be written to where the root filesystem is read-only.
ENV TMPDIR=/dev/shm
# With PORT set, Gunicorn listens on every interface.
ENV PORT=7860 EMBEDDING_MODEL=/models/bge-small-en-v1.5
EXPOSE 7860
HEALTHCHECK --start-period=60s --timeout=5s CMD ["python", "-c", \
    "import os, urllib.request as u; \
u.build_opener(u.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]
CMD ["gunicorn", "wsgi:app"]

# The model is part of the image: a container starts without the Hub.
FROM without-model
COPY --from=model /huggingface/hub /huggingface/hub
ENV EMBEDDING_MODEL=
