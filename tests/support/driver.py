"""The kernel in a program of its own, made of driver.c."""

import subprocess
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from embedding_api.encoder.kernel.engine import laid_out
from embedding_api.encoder.kernel.library import FOLDER

FILES = Path(__file__).parent


@dataclass(frozen=True)
class Driver:
    """A compiled driver, by the command that runs it."""

    command: list[str]

    @classmethod
    def compile(cls, path, compiler, *kernel, runner=()):
        """Compile driver.c and the kernel, C sources or a shared object, to the program `path`.

        Raises:
            CalledProcessError: it cannot be compiled without an error or a warning.
        """
        warnings = "-Wall", "-Wextra", "-Werror"
        command = *compiler, "-std=c17", *warnings, f"-I{FOLDER}", FILES / "driver.c", *kernel, "-o", path, "-pthread"
        subprocess.run(command, check=True, capture_output=True)
        return cls([*runner, str(path)])

    def forward(self, weights, *batches, bfloat16=False, helper=False):
        """The vectors of each batch of token id lists, one after the other in one run of the program."""
        panel = int(self._run(["panel"]))
        header = [weights.words.shape[1], weights.heads, len(weights.layers), weights.padding, weights.max_length]
        header += [bfloat16, weights.activation, weights.pooling, weights.dense_activation]
        header += [weights.attention_bias is not None, len(weights.layers[0].up[0])]
        header += [weights.dimension if weights.dense else 0, len(batches)]
        data = [np.array(header, np.int32), np.float32(weights.eps)]
        for array in laid_out(weights, panel, bfloat16):
            data += [np.int64(array.nbytes), array]
        for batch in batches:
            data += [np.int32(len(batch)), np.array([len(ids) for ids in batch], np.int32)]
            data += [np.array(ids, np.int32) for ids in batch]
        arguments = ["helper"] if helper else []
        vectors = np.frombuffer(self._run(arguments, b"".join(part.tobytes() for part in data)), np.float32)
        ends = list(accumulate(map(len, batches)))
        return np.split(vectors.reshape(ends[-1], -1)[:, : weights.dimension], ends[:-1])

    def _run(self, arguments, data=b""):
        # The kernel allocates nothing, and the driver keeps the model until it exits: there is no leak to look for.
        environment = {"ASAN_OPTIONS": "detect_leaks=0"}
        process = subprocess.run([*self.command, *arguments], input=data, capture_output=True, env=environment)
        assert process.returncode == 0, process.stderr.decode()
        return process.stdout
