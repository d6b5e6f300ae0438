import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread for transformers: on small models several threads spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
