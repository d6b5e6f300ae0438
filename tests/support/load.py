"""Clients that send one request after the other."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.support.server import embed_request


@contextmanager
def load(server, clients=4, keep_alive=True, text="a"):
    """Clients that send one request after the other, for a `with` statement, which gets the list of failures.

    A client whose connection was closed before it sent its request opens another, as every HTTP library does.
    """
    failures, end = [], threading.Event()
    request = embed_request(text, *([] if keep_alive else ["Connection: close"]))
    expected = server.embed(text).body

    def ask():
        client = server.client()
        while not end.is_set():
            try:
                if client.is_closed():
                    client.__exit__()
                    client = server.client()
                reply = client.ask(request)
                if reply is None or (reply.status, reply.body) != (200, expected):
                    failures.append(reply)
                if reply is None or reply.headers["Connection"] == "close":
                    client.__exit__()
                    client = server.client()
            except OSError as error:
                failures.append(error)
                client = server.client()
        client.__exit__()

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            yield failures
        finally:
            end.set()
        for client in asking:
            client.result()
