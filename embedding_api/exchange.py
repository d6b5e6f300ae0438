"""A request that has arrived in whole and its answer: what Gunicorn's worker has in place of the client's socket."""

import io
import select


class Exchange:
    """Looks like a socket to Gunicorn, and to the application in `environ["gunicorn.socket"]`. It never blocks.

    Args:
        client: the client's socket.
        head, body: the request's head as bytes, and a file of its body.
        waited: the seconds it waited for a worker, or None if it did not have to.
        refusal: the `ApiError` that the application shall answer with, whatever was asked for.

    Attributes:
        answer: what Gunicorn has written, as a list of bytes.
    """

    def __init__(self, client, head, body=None, waited=None, refusal=None):
        self.client = client
        self.waited = waited
        self.refusal = refusal
        self.answer = []
        self._head = head
        self._body = body or io.BytesIO()

    def client_has_gone(self):
        """Whether the client has closed the connection, or its sending half, which no client does that waits."""
        connection = select.poll()
        connection.register(self.client, select.POLLRDHUP)
        return bool(connection.poll(0))

    def recv(self, size):
        data, self._head = self._head[:size], self._head[size:]
        return data or self._body.read(size)

    def sendall(self, data):
        self.answer.append(bytes(data))

    def close(self):
        self._body.close()

    def getsockname(self):
        return self.client.getsockname()

    # What else Gunicorn does with sockets when it closes them.

    def shutdown(self, how):
        """Nothing to do: whoever sends the answer does it."""

    def settimeout(self, seconds):
        """Nothing to do: everything is here."""
