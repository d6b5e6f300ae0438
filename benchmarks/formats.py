"""What base64 saves beside JSON's numbers: `python -m benchmarks.formats`, a minute.

Sends 512 short texts to /v1/embeddings of the real service by the openai package, asking in turns for numbers and for
base64, the package's default. Figures are medians of the rounds, with the lowest and the highest: the bytes of the
answer, and the milliseconds from the call to the vectors. The time of encoding is left out, as it is the same for both.
"""

import re
import tempfile
import time
from datetime import date
from statistics import median

import click
import openai

from benchmarks.engine import cpu
from embedding_api.config import Settings
from embedding_api.encoder.model_files import find_model
from tests.support.server import Server

FORMATS = {"float": "float", "base64": openai.omit}
TEXTS = [f"text number {number} of many" for number in range(512)]


@click.command()
@click.option("--rounds", default=15, show_default=True)
def main(rounds):
    environment = {"EMBEDDING_MODEL": str(find_model(Settings.from_env()).resolve()), "WEB_CONCURRENCY": "2"}
    print(f"{cpu()}, {date.today()}, openai {openai.__version__}, {len(TEXTS)} texts, medians of {rounds} rounds")
    figures = {name: ([], [], []) for name in FORMATS}
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(environment, directory) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        for number in range(rounds + 1):
            for name in sorted(FORMATS, reverse=number % 2 == 1):
                figure = measure(client, FORMATS[name])
                if number:
                    # The first round is for warming up.
                    for values, value in zip(figures[name], figure, strict=True):
                        values.append(value)
    for name, values in figures.items():
        size, beside, encoding = (f"{median(of):,.0f} ({min(of):,.0f} to {max(of):,.0f})" for of in values)
        print(f"  {name:7} {size} bytes, {beside} ms beside {encoding} ms of encoding")
    for index, unit in enumerate(("bytes", "ms beside encoding")):
        ratio = median(figures["float"][index]) / median(figures["base64"][index])
        print(f"  float / base64, {unit}: {ratio:.2f}")


def measure(client, encoding_format):
    """The bytes of an answer, the milliseconds it took beside encoding, and those of encoding."""
    began = time.perf_counter()
    reply = client.embeddings.with_raw_response.create(model="any", input=TEXTS, encoding_format=encoding_format)
    vectors = [item.embedding for item in reply.parse().data]
    took = 1000 * (time.perf_counter() - began)
    assert len(vectors) == len(TEXTS)
    assert isinstance(vectors[0][0], float)
    encoding = float(re.search(r"encode;dur=([\d.]+)", reply.headers["Server-Timing"])[1])
    return int(reply.headers["Content-Length"]), took - encoding, encoding


if __name__ == "__main__":
    main()
