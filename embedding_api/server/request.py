"""One HTTP request: parsed by httptools as its bytes arrive, checked by Gunicorn's own header policy, within limits."""

import io

import httptools
from gunicorn.http import errors as http
from gunicorn.http.message import HeaderPolicy
from gunicorn.util import split_request_uri

from embedding_api.errors import ApiError

# Bytes of a request line and its headers together; Gunicorn's limits for the parts are below that.
HEAD_BYTES = 64 * 1024
# Bytes that chunks may add to a body, besides an eighth of it. To parse megabytes in chunks of one byte takes minutes.
CHUNK_BYTES = 16 * 1024
# A body in chunks is taken to be small until it has more bytes.
_SMALL_BYTES = 64 * 1024

# Requests of these need no forward pass, so they are answered at any time.
NO_PASS_METHODS = "GET", "HEAD", "OPTIONS"

_REASONS = {
    "Expected HTTP/, RTSP/ or ICE/": "the request line is not METHOD /path HTTP/1.1; a space in a path is %20",
    "Invalid method encountered": "it does not begin with a method of HTTP; TLS is not spoken here",
    "Invalid header token": "a header is not of the form 'Name: value'",
    "Invalid character in chunk size": "the size of a chunk is not a hexadecimal number",
    "Expected LF after chunk data": "a chunk is longer than its size says",
    "Pause on PRI/Upgrade": "HTTP/2 is not spoken here",
}


class Request(HeaderPolicy):
    """A request, with the attributes that `gunicorn.http.wsgi.create` reads.

    Args:
        cfg: Gunicorn's configuration.
        address: the client's, as `accept` gives it.
        max_body_bytes: the limit of a body. It is read until it has more.

    Attributes:
        received: the number of bytes that were fed.
        begun: whether anything has arrived but empty lines.
        has_head, complete: whether the head, and the whole request, have arrived.
        expects_continue: whether the client waits for "100 Continue" before it sends the body.
        body: a file of the body as far as it has arrived, positioned at its start.
        must_close: whether the connection must be closed after the answer.
    """

    proxy_protocol_info = None

    def __init__(self, cfg, address, max_body_bytes):
        self.cfg = cfg
        self.peer_addr = self.remote_addr = address
        self.scheme = "https" if cfg.is_ssl else "http"
        self.headers = []
        self.body = io.BytesIO()
        self.received = 0
        self.begun = self.has_head = self.complete = self.must_close = self.expects_continue = False
        self._max_body_bytes = max_body_bytes
        self._method, self._target, self._version, self._fields = b"", b"", "", []
        self._head_bytes = self._content_length = 0
        self._is_chunked = False
        self._is_pipelined = False
        self._parser = httptools.HttpRequestParser(self)

    @property
    def body_bytes(self):
        """The number of bytes of the body that have arrived."""
        return self.body.getbuffer().nbytes

    @property
    def body_to_come(self):
        """The most bytes that the body will have: its Content-Length; in chunks 0 while it is small, then the limit."""
        return self._max_body_bytes if self._is_chunked and self.body_bytes > _SMALL_BYTES else self._content_length

    @property
    def is_too_large(self):
        """Whether the body is beyond the limit, by its own announcement or as it arrives."""
        return max(self._content_length, self.body_bytes) > self._max_body_bytes

    def should_close(self):
        """Whether the connection must be closed after the answer: for `gunicorn.http.wsgi.Response`."""
        return self.must_close or not self.complete

    def feed(self, data):
        """Parse bytes that have arrived.

        Raises:
            ApiError: the request is not valid, or beyond a limit.
        """
        self.received += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._check_limits()
            if not self.complete:
                raise _malformed(_REASONS.get(str(error), str(error))) from None
            # Only what follows the complete request is not valid.
            self.must_close = True
        self._check_limits()
        if self.complete:
            self._parser = None

    def free(self):
        """Free the body and the parser, when they are no longer needed.

        Parser and request refer to each other, and a garbage collection is rare.
        """
        self._parser = None
        self.body.truncate(0)

    def _parse(self, data):
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The request is answered in HTTP/1.1. Its body is read, but nothing after CONNECT or a pipelined request.
            if self._is_pipelined or self._method == b"CONNECT":
                self.must_close = True
            else:
                self._parse_body(data[upgrade.args[0] :])

    def _parse_body(self, data):
        """Parse the body of a request with Upgrade, by a new parser: httptools leaves it to the other protocol."""
        framing = [field for field in self._fields if field[0].lower() in (b"content-length", b"transfer-encoding")]
        lines = b"".join(b"%s: %s\r\n" % field for field in framing)
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(b"%s / HTTP/%s\r\n%s\r\n" % (self._method, self._version.encode(), lines) + data)
        except httptools.HttpParserUpgrade:
            # The next request has Upgrade as well.
            self.must_close = True

    # Callbacks of the parser. They raise nothing, as httptools would wrap it.

    def on_message_begin(self):
        if self.complete:
            # A pipelined request is not answered: the client sends it again over another connection.
            self.must_close = self._is_pipelined = True
        self.begun = True

    def on_url(self, part):
        if not self.has_head:
            self._target += part

    def on_header(self, name, value):
        # Trailers are ignored.
        if not self.has_head:
            self._fields.append((name, value))

    def on_headers_complete(self):
        if not self.has_head:
            self.has_head = True
            # Read them now: later the parser may have those of the next request.
            self._method, self._version = self._parser.get_method(), self._parser.get_http_version()

    def on_body(self, part):
        if not self.complete:
            self.body.seek(0, io.SEEK_END)
            self.body.write(part)
            self.body.seek(0)

    def on_message_complete(self):
        self.complete = True

    def _check_limits(self):
        if self._head_bytes:
            # What follows a complete body is the next request's.
            if (
                not self.complete
                and self.received - self._head_bytes - self.body_bytes > CHUNK_BYTES + self.body_bytes // 8
            ):
                raise _malformed("the chunks of the body are too small")
            return
        self._check_target()
        self._check_fields()
        if self.has_head:
            # An upper bound: the first bytes of the body may have come with the head.
            self._head_bytes = self.received
            self._read_head()
        elif self.received > HEAD_BYTES:
            raise ApiError("headers_too_large", f"The headers have more than {HEAD_BYTES} bytes. Send fewer.")

    def _check_target(self):
        # The line also has the method, the version and two spaces.
        limit = self.cfg.limit_request_line
        length = len(self._method) + len(self._target) + len(" HTTP/1.1 ") if self._target else 0
        if 0 < limit < length:
            message = f"The request line has more than {limit} bytes. Send texts in the body of a POST."
            raise ApiError("uri_too_long", message)

    def _check_fields(self):
        limit = self.cfg.limit_request_fields
        if 0 < limit < len(self._fields):
            message = f"The request has more than {limit} headers. Send fewer."
            raise ApiError("headers_too_large", message)
        limit = self.cfg.limit_request_field_size
        for name, value in self._fields:
            if 0 < limit < len(name) + len(value) + 4:
                message = f"The header {_text(name)[:100]} has more than {limit} bytes. Shorten it."
                raise ApiError("headers_too_large", message)

    def _read_head(self):
        self.method, self.uri = _text(self._method), _text(self._target)
        if self._version not in ("1.0", "1.1"):
            raise _malformed(f"HTTP/{self._version} is not spoken here, but HTTP/1.1")
        self.version = 1, int(self._version[2])
        try:
            parts = split_request_uri(self.uri)
        except ValueError:
            raise _malformed("the request line has no valid path") from None
        self.path, self.query, self.fragment = parts.path or "", parts.query or "", parts.fragment or ""
        self._read_fields()

    def _read_fields(self):
        scheme_state, seen = [False], set()
        trusted = self._peer_trusted_for_forwarded()
        try:
            for name, value in self._fields:
                # httptools leaves white space at the end of a value.
                name, value = _text(name).upper(), _text(value).rstrip(" \t")
                field = self._apply_header_policy(name, value, scheme_state, seen, *trusted)
                # No other protocol is spoken here, and Flask would refuse to route a WebSocket's request.
                if field and name != "UPGRADE":
                    self.headers.append(field)
        except http.ExpectationFailed:
            message = "The header Expect asks for what is not done here. Leave it out, or send 100-continue."
            raise ApiError("expectation_failed", message) from None
        except http.InvalidSchemeHeaders:
            raise _malformed("its headers name two schemes") from None
        except http.ParseException:
            raise _malformed(f"the header {name[:100]} is sent twice, or has a name that is not allowed") from None
        headers = dict(self.headers)
        if "HOST" not in headers and self.version == (1, 1):
            raise _malformed("it has no header Host")
        codings = [value.lower() for name, value in self.headers if name == "TRANSFER-ENCODING"]
        if codings and (codings != ["chunked"] or self.version == (1, 0)):
            raise _malformed("the only Transfer-Encoding is chunked, in HTTP/1.1")
        self._content_length, self._is_chunked = int(headers.get("CONTENT-LENGTH", 0)), bool(codings)
        options = ",".join(value.lower() for name, value in self.headers if name == "CONNECTION")
        connection = {option.strip() for option in options.split(",")}
        if "close" in connection or (self.version == (1, 0) and "keep-alive" not in connection):
            self.must_close = True
        # Hidden from Gunicorn, which would send 100 Continue at once, before the request is checked.
        self.expects_continue, self._expected_100_continue = self._expected_100_continue, False


def _text(data):
    return data.decode("latin-1")


def _malformed(reason):
    return ApiError("malformed_request", f"The request is not valid HTTP: {reason}.")
