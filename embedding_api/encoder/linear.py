"""The products of the forward pass, with their weights laid out once for the CPU's fastest kernels."""

import time

import torch
import torch.nn.functional as F

# What the layout of a prepacked weight is best for; every other number of rows uses the same layout.
_TYPICAL_ROWS = 1024
# Up to so many rows their number is a multiple of the step, and above of 64. Finer where a query has so many.
_STEPS = ((32, 4), (128, 8), (256, 32))


def prepacks():
    """Whether products run in oneDNN on prepacked weights, or else as torch's own F.linear.

    Where there is AVX-512 oneDNN is twice as fast as MKL on AMD, and as fast on Intel; on AVX2 it is 10% slower. What
    it prepacks with are torch's private operators, which a release may lose.
    """
    operators = torch.ops.mkldnn
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and all(
        hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


class Linear:
    """rows @ weight.T + bias in the weight's dtype, and the exact GELU of that where asked for.

    A prepacked weight is a copy; the original is not kept.
    """

    def __init__(self, weight, bias, gelu=False):
        self.shape = tuple(weight.shape)
        self.gelu = gelu
        self._prepacked = prepacks()
        weight = weight.contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS) if self._prepacked else weight
        self._bias = bias

    def __call__(self, rows):
        """From shape (rows, in) to (rows, out)."""
        if self._prepacked:
            activation = "gelu" if self.gelu else "none"
            return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, activation, [], "none")
        product = F.linear(rows, self._weight, self._bias)
        return F.gelu(product) if self.gelu else product

    def warm(self, most_rows):
        """Have it compiled for each padded number of rows up to `most_rows`, and the present number of threads."""
        if self._prepacked:
            for count in sorted({padded_count(count) for count in range(1, most_rows + 1)}):
                self(torch.zeros(count, self.shape[1], dtype=self._bias.dtype))


def padded_count(count):
    """How many rows a product of so many gets.

    oneDNN compiles a product for each number of rows it meets, which takes a millisecond and half a megabyte each time:
    so there are few numbers. One row is none of them: that product sums in another order, and a text alone would get
    other bits than in company.
    """
    if not prepacks():
        return count
    step = next((step for most, step in _STEPS if count <= most), 64)
    return -(-count // step) * step


def bfloat16_is_slower():
    """Whether a product of BERT's shape takes longer in bfloat16 than in float32 on this CPU.

    It is measured, in a few ms: instructions for bfloat16 are no proof. Intel's without AMX are slower than float32.
    """
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        linear = Linear(torch.zeros(1536, 384, dtype=dtype), torch.zeros(1536, dtype=dtype))
        rows = torch.zeros(64, 384, dtype=dtype)
        best[dtype] = min(_seconds(linear, rows) for _ in range(6))
    return best[torch.bfloat16] > best[torch.float32]


def _seconds(linear, rows):
    start = time.perf_counter()
    linear(rows)
    return time.perf_counter() - start
