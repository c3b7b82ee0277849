"""ClickHouse's HTTP interface over the engine in this process (PyPI's chdb): the part of it that pg2ch and its tests use.

The engine is the real one: MergeTree on disk, its own parser, formats, settings, errors and deduplication. This file is the HTTP
side of it, clickhouse_engine.py the other one. A request gets an engine connection of its own (they cost 0.1 ms and share one
data directory), so settings never leak into another request, and requests run at the same time as on a server. An INSERT's body,
once it is complete, becomes a file in memory that the engine reads as INSERT ... FROM INFILE: a request whose body was cut short
stores nothing. (chdb's streaming insert would be the obvious way, but it answers "done" to an INSERT that fails while it is
written, for example by a constraint or by too many partitions.)

What differs from a server: a result is complete before the first byte of it is sent (as with wait_end_of_query=1); an INSERT is
synchronous unless it asks for async_insert=1, which is refused; there is one user, checked here. What is not known here
(sessions, roles, multipart bodies, ClickHouse's own compression, INSERT ... SELECT FROM input()) is refused with status 501
instead of being ignored. The engine does not know the request's query_id: KILL QUERY and system.processes show its own.
"""

import argparse
import base64
import gzip
import hmac
import http.server
import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
import zlib

import lz4.frame
import zstandard
from clickhouse_engine import CODES, Engine, Refusal, refuse, server_text

# ClickHouse's own mapping of exception codes to HTTP statuses (exceptionCodeToHTTPStatus); any other code is a 500.
STATUS_CODES = {
    400: "6 8 15 25 26 27 36 37 38 41 44 53 62 72 117 123 167 168 223 321 376 427 441 675 676",
    401: "194",
    403: "192 193 497 512 516",
    404: "46 47 50 56 60 63 73 78 81 115 152 336 511",
    408: "159",
    411: "381",
    413: "229",
    415: "779",
    501: "48",
    503: "76 209 439",
}
STATUS_OF_CODE = {int(code): status for status, codes in STATUS_CODES.items() for code in codes.split()}

# Parameters of the request itself; every other one is a setting or, with the prefix param_, a query parameter.
HANDLED = {"query", "database", "default_format", "user", "password", "query_id"}
WITHOUT_EFFECT = {"wait_end_of_query", "buffer_size"}  # results are always complete before they are sent
REFUSED = {
    "session_id", "session_timeout", "session_check", "close_session", "role", "quota_key",
    "compress", "decompress", "stacktrace", "client_protocol_version",
}  # fmt: skip

SUMMARY = "read_rows read_bytes written_rows written_bytes total_rows_to_read result_rows result_bytes".split()

CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "RowBinary": "application/octet-stream",
    "Native": "application/octet-stream",
}


class Request:
    """What the engine needs to know of an HTTP request."""

    def __init__(self, method, parameters, headers, body):
        values = dict(parameters)
        for name in values:
            if name in REFUSED:
                refuse(f"the parameter {name}")
        if headers.get_content_maintype() == "multipart":
            refuse("a multipart body")
        self.query = values.get("query", "").encode()
        self.body = decompress(body, headers.get("Content-Encoding", "identity").strip().lower())
        self.query_id = values.get("query_id") or str(uuid.uuid4())
        self.database = values.get("database") or headers.get("X-ClickHouse-Database")
        self.default_format = values.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated"
        self.read_only = method == "GET"
        self.settings = [pair for pair in parameters if pair[0] not in HANDLED | WITHOUT_EFFECT]
        self.compressed = values.get("enable_http_compression") in ("1", "true")


def decompress(body, encoding):
    try:
        if encoding in ("", "identity"):
            return body
        if encoding == "gzip":
            return gzip.decompress(body)
        if encoding == "deflate":
            return zlib.decompress(body)
        if encoding == "zstd":
            return unpack_zstd(body)
        if encoding == "lz4":
            return lz4.frame.decompress(body)
    except (zlib.error, gzip.BadGzipFile, EOFError, zstandard.ZstdError, RuntimeError) as error:
        name = {"zstd": "ZSTD_DECODER_FAILED", "lz4": "LZ4_DECODER_FAILED"}.get(encoding, "ZLIB_INFLATE_FAILED")
        raise Refusal(name, f"Cannot decompress the {encoding} body: {error}") from error
    return refuse(f"Content-Encoding: {encoding}")


def unpack_zstd(body):
    """All frames of a body; the library's own function ignores a missing end."""
    plain = []
    while body:
        frame = zstandard.ZstdDecompressor().decompressobj()
        plain.append(frame.decompress(body))
        if not frame.eof:
            raise zstandard.ZstdError("the frame has no end")
        body = frame.unused_data
    return b"".join(plain)


def compress(content, accepted):
    """The result in the first encoding that the client takes, and the encoding's name."""
    for name in ("zstd", "lz4", "gzip", "deflate"):
        if name in accepted:
            packed = {
                "zstd": zstandard.ZstdCompressor(level=1).compress,
                "lz4": lz4.frame.compress,
                "gzip": lambda plain: gzip.compress(plain, 1),
                "deflate": lambda plain: zlib.compress(plain, 1),
            }[name](content)
            return packed, name
    return content, None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30  # seconds without a byte from the client, as the server's keep_alive_timeout and http_receive_timeout

    engine = None
    user = password = ""

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        started = time.monotonic()
        address = urllib.parse.urlsplit(self.path)
        body = self.read_body()
        if body is None:
            self.close_connection = True
            self.log_message("a body was cut short: nothing done")
            return
        if address.path == "/ping" or (address.path == "/" and not address.query and self.command == "GET"):
            self.reply(200, b"Ok.\n", {"Content-Type": "text/html; charset=UTF-8"})
        elif address.path == "/replicas_status":
            self.reply(200, b"Ok.\n", {"Content-Type": "text/plain; charset=UTF-8"})
        elif address.path == "/":
            self.run_query(urllib.parse.parse_qsl(address.query, keep_blank_values=True), body, started)
        else:
            self.reply(404, f"There is no handle {address.path}\n\nUse / or /ping for health checks.\n".encode(), {})

    def read_body(self):
        """The whole body, or None where the client ended before it did."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while True:
                try:
                    size = int(self.rfile.readline(1000).split(b";")[0], 16)
                except ValueError:
                    return None
                chunk = self.rfile.read(size + 2) if size >= 0 else b""
                if len(chunk) < size + 2 or not chunk.endswith(b"\r\n"):
                    return None
                if size == 0:
                    return b"".join(chunks)
                chunks.append(chunk[:-2])
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit():
            return None
        length = int(length)
        body = self.rfile.read(length) if length else b""
        return body if len(body) == length else None

    def run_query(self, parameters, body, started):
        headers = {}
        try:
            self.check_password(dict(parameters))
            request = Request(self.command, parameters, self.headers, body)
            headers["X-ClickHouse-Query-Id"] = request.query_id
            content, format_name, counts = self.engine.execute(request)
        except (Refusal, RuntimeError, UnicodeDecodeError) as error:
            self.reply_error(str(error), headers)
        else:
            summary = dict.fromkeys(SUMMARY, "0") | counts | {"elapsed_ns": str(int((time.monotonic() - started) * 1e9))}
            headers["X-ClickHouse-Summary"] = json.dumps(summary, separators=(",", ":"))
            headers["X-ClickHouse-Format"] = format_name or request.default_format
            headers["Content-Type"] = CONTENT_TYPES.get(format_name, "text/plain; charset=UTF-8")
            if request.compressed:
                content, encoding = compress(content, self.headers.get("Accept-Encoding", ""))
                if encoding:
                    headers["Content-Encoding"] = encoding
            self.reply(200, content, headers)

    def check_password(self, values):
        """One scheme at a time, as a server has it: headers, Basic, or parameters."""
        basic = self.headers.get("Authorization", "")
        given = []
        if self.headers.get("X-ClickHouse-User") or self.headers.get("X-ClickHouse-Key"):
            given.append((self.headers.get("X-ClickHouse-User") or "default", self.headers.get("X-ClickHouse-Key", "")))
        if basic:
            scheme, _, credentials = basic.partition(" ")
            if scheme.lower() != "basic":
                text = f"Invalid authentication: '{scheme}' HTTP Authorization scheme is not supported"
                raise Refusal("AUTHENTICATION_FAILED", text)
            try:
                user, _, password = base64.b64decode(credentials).decode().partition(":")
            except ValueError:
                user = password = ""
            given.append((user, password))
        if "user" in values or "password" in values:
            given.append((values.get("user", "default"), values.get("password", "")))
        if len(given) > 1:
            text = "Invalid authentication: it is not allowed to use more than one way to give user and password simultaneously"
            raise Refusal("AUTHENTICATION_FAILED", text)
        user, password = given[0] if given else ("default", "")
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        if not (hmac.compare_digest(password.encode(), self.password.encode()) and same_user):
            text = f"{user}: Authentication failed: password is incorrect, or there is no user with such name"
            raise Refusal("AUTHENTICATION_FAILED", text)

    def reply_error(self, text, headers):
        text = server_text(text)
        found = re.match(r"Code: (\d+)\. ", text)
        code = int(found.group(1)) if found else CODES["STD_EXCEPTION"]
        text = text if found else f"Code: {code}. DB::Exception: {text}. (STD_EXCEPTION)"
        if "(version " not in text:
            text += f" (version {self.engine.version})"
        headers |= {"X-ClickHouse-Exception-Code": str(code), "Content-Type": "text/plain; charset=UTF-8"}
        self.log_message("%s", text)
        self.reply(STATUS_OF_CODE.get(code, 500), text.encode() + b"\n", headers)

    def reply(self, status, content, headers):
        self.send_response(status)
        self.send_header("X-ClickHouse-Server-Display-Name", "pg2ch-test")
        self.send_header("X-ClickHouse-Timezone", self.engine.timezone)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close" if self.close_connection else "Keep-Alive")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code, message=None, explain=None):
        # What http.server itself refuses: a malformed request, an unknown method.
        self.close_connection = True
        self.reply(code, f"{message or code}\n".encode(), {"Content-Type": "text/plain; charset=UTF-8"})

    def log_request(self, code="-", size="-"):
        # Without the parameters: a password may be among them.
        self.log_message("%s %s %s", self.command, urllib.parse.urlsplit(getattr(self, "path", "?")).path, int(code))

    def log_message(self, format, *args):
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {format % args}\n")


class Front(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, host, port, context=None):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.context = context

    def finish_request(self, request, client_address):
        # In the connection's own thread: a client that never ends its TLS handshake holds up nobody else.
        if self.context:
            request.settimeout(Handler.timeout)
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        # Mostly a client that went away before its answer.
        error = sys.exc_info()[1]
        sys.stderr.write(f"connection from {client_address[0]} ended: {type(error).__name__}: {error}\n")


def main():
    parser = argparse.ArgumentParser(description="A ClickHouse server for tests; its user: CLICKHOUSE_USER, CLICKHOUSE_PASSWORD.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--listen", nargs="+", default=["127.0.0.1", "::1"], help="addresses; the first one has to be there")
    parser.add_argument("--https-port", type=int)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--users", help="a users.xml: what the engine's user `default` may do")
    options = parser.parse_args()
    Handler.engine = Engine(options.data, options.users)
    Handler.user, Handler.password = os.environ["CLICKHOUSE_USER"], os.environ["CLICKHOUSE_PASSWORD"]
    ports = [(options.port, None)]
    if options.https_port:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
        ports.append((options.https_port, context))
    for port, context in ports:
        for host in options.listen:
            try:
                front = Front(host, port, context)
            except OSError:
                if host == options.listen[0]:
                    raise
                continue  # this machine has no IPv6
            threading.Thread(target=front.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"ClickHouse {Handler.engine.version} answers on port {options.port}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


def stop(*_):
    """Let the running statements end, for a while. An engine that is not closed is like a killed one, and recovers as well."""
    deadline = time.monotonic() + 10
    while Handler.engine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    if not Handler.engine.running:
        Handler.engine.base.close()
    os._exit(0)


if __name__ == "__main__":
    main()
