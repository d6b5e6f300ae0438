FROM python:3.11-slim

# A Hugging Face Space runs the container as user 1000.
RUN useradd --create-home --uid 1000 app
WORKDIR /app

# The CPU build of torch; the standard one would add gigabytes of CUDA packages.
COPY requirements.txt .
RUN pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt

COPY --chown=1000 gunicorn.conf.py wsgi.py ./
COPY --chown=1000 embedding_api embedding_api
USER 1000
ENV HOME=/home/app

# The model is part of the image: a container starts without the Hub.
RUN python -m embedding_api download

# Gunicorn listens on every interface where PORT is set.
ENV PORT=7860
EXPOSE 7860
HEALTHCHECK --start-period=60s --timeout=5s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]
CMD ["gunicorn", "wsgi:app"]
