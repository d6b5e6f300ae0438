"""The forward pass of BERT and its like in the kernel: its weights laid out once, its calls checked."""

import contextlib
import ctypes
import mmap
from threading import Lock, Thread

import numpy as np

from embedding_api.encoder.compute_threads import block_signals
from embedding_api.encoder.kernel.library import Bert, Helper, Layer, Linear, Norm

# The bytes of a huge page.
_HUGE_PAGE = 2 << 20
# The bytes of a cache line: vectors that begin at a multiple of it are loaded fastest.
_ALIGNMENT = 64
# The most tokens of one call. For BGE small its activations take 8 GB; their sizes fit in 32 bits.
MOST_TOKENS = 1 << 20


class KernelEngine:
    """A model and its pooling, without a final L2 normalisation.

    Args:
        library: from `load_library`; the engine has its attribute `instruction_set`.
        weights: a `BertWeights`.
        bfloat16: whether the products' weights are rounded to bfloat16, which halves their size.
    """

    name = "kernel"
    pads = False
    # Of 128, 256, 512 and 1,024 the fastest, by 2% at most. Fewer tokens need less scratch memory.
    micro_batch_tokens = 256

    def __init__(self, library, weights, bfloat16=False):
        self.instruction_set = library.instruction_set
        self._library = library
        self._vocabulary, self._dimension = len(weights.words), weights.dimension
        self._max_length = weights.max_length
        # Scratch memory that no thread uses at the moment.
        self._scratch = []
        self._helper, self._helper_lock = None, Lock()
        panel = library.bert_panel()
        self._stride = self._dimension + -self._dimension % panel
        self._bert, self._block = _lay_out(weights, panel, bfloat16)

    def forward(self, batch, with_helper=False):
        """The vectors of a batch of texts, as a float32 array of shape (len(batch), dimension).

        Each text is an array or a list of its token ids.
        A text's vector has the same bits in any batch, with the helper thread and without. Any number of threads may
        call it at once; one of them at a time gets the helper.

        Raises:
            ValueError: a text has no tokens, or more than the model reads, or one that is not in the vocabulary; or the
                batch has more than MOST_TOKENS.
        """
        # The kernel checks nothing, so all numbers that it gets are checked here.
        lengths = np.fromiter(map(len, batch), np.int32, len(batch))
        if not len(batch):
            return np.empty((0, self._dimension), np.float32)
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > self._max_length:
            raise ValueError(f"Texts have {shortest} to {longest} tokens; the model reads 1 to {self._max_length}.")
        ids = np.concatenate(batch)
        if len(ids) > MOST_TOKENS:
            raise ValueError(f"A batch has {len(ids)} tokens; it may have {MOST_TOKENS}.")
        if ids.min() < 0 or ids.max() >= self._vocabulary:
            raise ValueError(f"A token id is not from 0 to {self._vocabulary - 1}.")
        ids = ids.astype(np.int32, casting="same_kind", copy=False)
        scratch = self._take_scratch(self._library.bert_scratch(self._bert, len(ids), longest))
        vectors = np.empty((len(batch), self._stride), np.float32)
        addresses = [array.ctypes.data for array in (ids, lengths, scratch, vectors)]
        helper = self._wake_helper() if with_helper else None
        try:
            shared = helper and helper.shared
            self._library.bert_forward(self._bert, *addresses[:2], len(batch), *addresses[2:], shared)
        finally:
            if helper:
                helper.release()
        self._scratch.append(scratch)
        return vectors[:, : self._dimension]

    def free_scratch(self):
        """Free the scratch memory that no thread uses; the next passes allocate it again."""
        self._scratch.clear()

    def _wake_helper(self):
        """The helper, which takes part from now on; None if it is busy, or no thread can be started for it."""
        with self._helper_lock, contextlib.suppress(RuntimeError):
            self._helper = self._helper or _Helper(self._library)
        return self._helper if self._helper and self._helper.wake() else None

    def _take_scratch(self, floats):
        """Scratch memory of at least so many floats, for the calling thread alone."""
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = ()
        if len(scratch) >= floats:
            return scratch
        memory = np.empty(4 * floats + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        return memory[start : start + 4 * floats].view(np.float32)


class _Helper:
    """A thread that computes half of each product of another thread's forward passes. To be made after the fork.

    Attributes:
        shared: what it shares with a pass.
    """

    def __init__(self, library):
        yield_ = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p)
        self._library, self.shared = library, Helper(yield_=yield_)
        # Locked while a pass has the helper, and while there is none to take part in.
        self._taken, self._asleep = Lock(), Lock()
        self._asleep.acquire()
        Thread(target=self._run, name="helper", daemon=True).start()

    def wake(self):
        """Have the thread take part in a pass until `release`, unless another pass has it; returns whether it does."""
        if not self._taken.acquire(blocking=False):
            return False
        # Before the thread wakes: it sleeps again when it finds this 0.
        self.shared.active = 1
        if self._asleep.locked():
            self._asleep.release()
        return True

    def release(self):
        """End what `wake` has begun."""
        self.shared.active = 0
        self._taken.release()

    def _run(self):
        block_signals()
        while True:
            self._asleep.acquire()
            self._library.help_with_products(self.shared)


def laid_out(weights, panel, bfloat16):
    """The arrays of a `BertWeights` as the kernel reads them, in the order of a `Bert`'s pointers."""
    arrays = [weights.words, weights.positions]
    if weights.attention_bias is not None:
        arrays.append(np.pad(weights.attention_bias, [(0, 0), (0, panel)]))
    arrays += weights.norm
    for layer in weights.layers:
        for weight, bias in layer.products:
            arrays += [_panels(weight, panel, bfloat16), _whole_panels(bias, panel)]
        arrays += [*layer.output_norm, *layer.norm]
    if weights.dense:
        weight, bias = weights.dense
        arrays += [_panels(weight, panel, bfloat16), _whole_panels(bias, panel)]
    return arrays


def _lay_out(weights, panel, bfloat16):
    """A `Bert`, and the block of memory that its pointers point into, which must live as long."""
    block, addresses = _block(laid_out(weights, panel, bfloat16))

    def linear(weight):
        return Linear(*weight.shape[::-1], next(addresses), next(addresses))

    def norm():
        return Norm(next(addresses), next(addresses))

    # Arguments are evaluated in their order, which is that of the arrays.
    bert = Bert(
        hidden=weights.words.shape[1],
        heads=weights.heads,
        layers=len(weights.layers),
        padding=weights.padding,
        max_length=weights.max_length,
        bfloat16=bfloat16,
        activation=weights.activation,
        pooling=weights.pooling,
        dense_activation=weights.dense_activation,
        epsilon=weights.eps,
        words=next(addresses),
        positions=next(addresses),
        attention_bias=None if weights.attention_bias is None else next(addresses),
        embedding_norm=norm(),
        layer=(Layer * len(weights.layers))(
            *(Layer(*(linear(weight) for weight, _ in layer.products), norm(), norm()) for layer in weights.layers)
        ),
        dense=linear(weights.dense[0]) if weights.dense else Linear(),
    )
    return bert, block


def _panels(weight, panel, bfloat16):
    """A weight of shape (outputs, inputs) as product.h has it.

    The shape is (panels, inputs, panel), or in bfloat16 (panels, inputs / 2, panel, 2).
    """
    weight = _whole_panels(weight, panel)
    if bfloat16:
        return _bfloat16(weight).reshape(-1, panel, weight.shape[1] // 2, 2).transpose(0, 2, 1, 3)
    return weight.reshape(-1, panel, weight.shape[1]).transpose(0, 2, 1)


def _whole_panels(array, panel):
    """The array, with zeros added until its length is a multiple of a panel's. Not copied if it is one already."""
    missing = -len(array) % panel
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array


def _bfloat16(array):
    """float32 to bfloat16, the upper half of each word, as uint16; rounded to nearest, ties to even."""
    words = array.view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)


def _block(arrays):
    """Copies of arrays in one block of memory, and their addresses.

    One block of huge pages is read 5% faster than many allocations. Processes that are forked later share it.
    """
    offsets = np.cumsum([0] + [array.nbytes + -array.nbytes % _ALIGNMENT for array in arrays])
    block = mmap.mmap(-1, int(offsets[-1]) + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Some builds of Linux have no huge pages.
    with contextlib.suppress(OSError):
        block.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(block, np.uint8)
    start = -memory.ctypes.data % _HUGE_PAGE
    for array, offset in zip(arrays, offsets, strict=False):
        place = memory[start + offset :][: array.nbytes].view(array.dtype)
        place.reshape(array.shape)[...] = array
    return memory, iter((memory.ctypes.data + start + offsets).tolist())
