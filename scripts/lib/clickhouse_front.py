"""ClickHouse's HTTP interface over the engine in this process (PyPI's chdb): the part of it that pg2ch and its tests use.

The engine is the real one: MergeTree on disk, its own parser, formats, settings, errors and deduplication. This file is only the
HTTP side of it. A request gets an engine connection of its own (they cost 0.1 ms and share one data directory), so settings
never leak into another request, and requests run at the same time as on a server. An INSERT's body, once it is complete, becomes
a file in memory that the engine reads as INSERT ... FROM INFILE: a request whose body was cut short stores nothing. (chdb's
streaming insert would be the obvious way, but it answers "done" to an INSERT that fails while it is written, for example by a
constraint or by too many partitions.)

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
from chdb import _chdb

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

SYNTAX_ERROR, NOT_IMPLEMENTED, UNKNOWN_SETTING, SAME_ID, AUTHENTICATION_FAILED, STD_EXCEPTION = 62, 48, 115, 216, 516, 1001

# Parameters of the request itself; every other one is a setting or, with the prefix param_, a query parameter.
HANDLED = {"query", "database", "default_format", "user", "password", "query_id"}
WITHOUT_EFFECT = {"wait_end_of_query", "buffer_size"}  # results are always complete before they are sent
REFUSED = {
    "session_id", "session_timeout", "session_check", "close_session", "role", "quota_key",
    "compress", "decompress", "stacktrace", "client_protocol_version",
}  # fmt: skip

MAX_INSERT_BLOCK_SIZE = 1048449  # the server's default

# What chdb sets otherwise than a server does.
SERVER_SETTINGS = "SET implicit_select = 0, allow_introspection_functions = 0"

# As much of the SQL lexer as it takes to find where an INSERT's data begin.
TOKEN = re.compile(
    rb"""(?P<blank>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
       | (?P<quoted>'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*`)
       | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
       | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
OUTPUT_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b[^']*)?;?\s*$", re.IGNORECASE)

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


class Refusal(Exception):
    """An answer that is not the engine's: ClickHouse's exception code, and the text."""

    def __init__(self, code, text, name):
        super().__init__(f"Code: {code}. DB::Exception: {text}. ({name})")


def refuse(what):
    raise Refusal(NOT_IMPLEMENTED, f"{what}: not supported by this stand-in for a ClickHouse server", "NOT_IMPLEMENTED")


def quote(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def tokens(text):
    """The words and signs of a statement, with their end and the depth of parentheses, without blanks and comments."""
    depth = 0
    for match in TOKEN.finditer(text):
        if match.lastgroup == "blank":
            continue
        sign = match.group()
        depth -= sign == b")"
        yield (sign.upper() if match.lastgroup == "word" else sign), match, depth
        depth += sign == b"("


class Insert:
    """An INSERT with data: its text up to FORMAT, where the SETTINGS begin in it, the name of the format, and the data."""

    def __init__(self, head, settings, format_name, data):
        self.head, self.settings, self.format, self.data = head, settings, format_name, data


def parse_insert(query, body):
    """The INSERT with data that a request is; None for every other statement."""
    # The statement is the parameter `query`, a line break and the body; the body is copied only where SQL may be in it.
    text = query + b"\n" if query else body
    stream = tokens(text)
    if next(stream, (b"",))[0] != b"INSERT":
        return None
    settings = None
    for word, match, depth in stream:
        if depth or match.lastgroup != "word":
            continue
        if word in (b"SELECT", b"WITH"):
            if any(word == b"INPUT" for word, _, _ in stream):
                refuse("INSERT ... SELECT FROM input()")
            return None
        if word == b"FROM":
            refuse("INSERT ... FROM INFILE over HTTP")
        if word == b"SETTINGS":
            settings = match.start()
        if word == b"VALUES":
            return Insert(text[: match.start()], settings, "Values", data_after(text, match.end(), query, body))
        if word == b"FORMAT":
            _, name, _ = next(stream, (None, None, None))
            if name and name.lastgroup == "word":
                data = data_after(text, name.end(), query, body)
                return Insert(text[: match.start()], settings, name.group().decode(), data)
    return None


def data_after(text, start, query, body):
    """The data behind FORMAT and its name: blanks and one line break do not belong to it."""
    if text[start : start + 1] == b";":
        raise Refusal(SYNTAX_ERROR, "You have excessive ';' symbol before data for INSERT", "SYNTAX_ERROR")
    start = re.compile(rb"[ \t\f]*\r?\n?").match(text, start).end()
    if not query:
        return text[start:]
    return text[start:] + body if start < len(text) else body


def server_text(text):
    """The engine's message as a server would word it: without what chdb wraps around it, and without our file."""
    text = text.strip()
    while wrapped := re.fullmatch(r"Code: (\d+)\. DB::Exception: (Code: \1\. .*\(version [^)]*\))\. \(\w+\)(?: \(version [^)]*\))?", text, re.DOTALL):
        text = wrapped.group(2)
    return re.sub(r"\(in file/uri /proc/self/fd/\d+\): |: While executing File: data for INSERT was parsed from file", "", text)


class Engine:
    """The engine and the requests that run in it."""

    def __init__(self, path):
        self.path = path
        # Keeps the engine up while no request does; opening connections one at a time costs nothing.
        self.base = _chdb.connect(path)
        self.opening = threading.Lock()
        self.running = set()
        self.version, self.timezone = self.base.query("SELECT version(), timezone()", "TSV").bytes().decode().split()

    def connect(self):
        with self.opening:
            return _chdb.connect(self.path)

    def execute(self, request):
        """Run a request's statement. Gives the result, the name of its format, and the statistics of the summary."""
        insert = parse_insert(request.query, request.body)
        with self.opening:
            if request.query_id in self.running:
                text = f"Query with id = {request.query_id} is already running"
                raise Refusal(SAME_ID, text, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING")
            self.running.add(request.query_id)
        connection = self.connect()
        try:
            self.prepare(connection, request, insert)
            if insert:
                return self.insert(connection, insert)
            return self.select(connection, request)
        finally:
            with self.opening:
                connection.close()
                self.running.discard(request.query_id)

    @staticmethod
    def prepare(connection, request, insert):
        """Database, settings and query parameters: those of the connection, which belongs to this request alone."""
        # A file's blocks are as large as a SELECT's, those of a request's body max_insert_block_size: one INSERT, one block.
        rows = dict(request.settings).get("max_insert_block_size", "")
        block = f", max_block_size = {rows if rows.isdigit() else MAX_INSERT_BLOCK_SIZE}" if insert else ""
        connection.query(SERVER_SETTINGS + block, "Null")
        if request.database:
            connection.query("USE `" + request.database.replace("\\", "\\\\").replace("`", "\\`") + "`", "Null")
        if request.read_only:
            connection.query("SET readonly = 2", "Null")
        for name, value in request.settings:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise Refusal(UNKNOWN_SETTING, f"Unknown setting '{name}'", "UNKNOWN_SETTING")
            if name == "async_insert" and value not in ("0", "false"):
                refuse("async_insert")
        if request.settings:
            connection.query("SET " + ", ".join(f"{name} = {quote(value)}" for name, value in request.settings), "Null")

    @staticmethod
    def insert(connection, insert):
        file = os.memfd_create("insert")
        try:
            rest = memoryview(insert.data)
            while rest:
                rest = rest[os.write(file, rest) :]
            at = len(insert.head) if insert.settings is None else insert.settings
            source = f" FROM INFILE '/proc/self/fd/{file}' COMPRESSION 'none' "
            head = insert.head[:at].decode() + "\n" + source + insert.head[at:].decode()
            result = connection.query(f"{head} FORMAT {insert.format}", "Null")
        finally:
            os.close(file)
        return b"", "", {"written_rows": str(result.rows_read()), "written_bytes": str(result.bytes_read())}

    @staticmethod
    def select(connection, request):
        text = (request.query + b"\n" + request.body if request.query and request.body else request.query or request.body).decode()
        if not text.strip():
            raise Refusal(SYNTAX_ERROR, "Syntax error: failed at position 1 (end of query)", "SYNTAX_ERROR")
        if "outfile" in text.lower() and any(word == b"OUTFILE" for word, _, _ in tokens(text.encode())):
            refuse("SELECT ... INTO OUTFILE over HTTP")
        if connection.classify_query(text)["statement_count"] > 1:
            raise Refusal(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)", "SYNTAX_ERROR")
        result = connection.query(text, request.default_format)
        content = bytes(result.bytes())
        named = OUTPUT_FORMAT.search(text[-1000:])
        read = {"read_rows": str(result.storage_rows_read()), "read_bytes": str(result.storage_bytes_read())}
        return content, named.group(1) if named else request.default_format, read


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
        name, code = {"zstd": ("ZSTD_DECODER_FAILED", 561), "lz4": ("LZ4_DECODER_FAILED", 618)}.get(
            encoding, ("ZLIB_INFLATE_FAILED", 354)
        )
        raise Refusal(code, f"Cannot decompress the {encoding} body: {error}", name) from error
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
                chunk = self.rfile.read(size + 2)
                if len(chunk) < size + 2:
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
            none = dict.fromkeys(
                ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows", "result_bytes"), "0"
            )
            elapsed = {"elapsed_ns": str(int((time.monotonic() - started) * 1e9))}
            headers["X-ClickHouse-Summary"] = json.dumps({**none, **counts, **elapsed}, separators=(",", ":"))
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
                raise Refusal(AUTHENTICATION_FAILED, text, "AUTHENTICATION_FAILED")
            try:
                user, _, password = base64.b64decode(credentials).decode().partition(":")
            except ValueError:
                user = password = ""
            given.append((user, password))
        if "user" in values or "password" in values:
            given.append((values.get("user", "default"), values.get("password", "")))
        if len(given) > 1:
            text = "Invalid authentication: it is not allowed to use more than one way to give user and password simultaneously"
            raise Refusal(AUTHENTICATION_FAILED, text, "AUTHENTICATION_FAILED")
        user, password = given[0] if given else ("default", "")
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        if not (hmac.compare_digest(password.encode(), self.password.encode()) and same_user):
            text = f"{user}: Authentication failed: password is incorrect, or there is no user with such name"
            raise Refusal(AUTHENTICATION_FAILED, text, "AUTHENTICATION_FAILED")

    def reply_error(self, text, headers):
        text = server_text(text)
        found = re.match(r"Code: (\d+)\. ", text)
        code = int(found.group(1)) if found else STD_EXCEPTION
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
    parser = argparse.ArgumentParser(description="A ClickHouse server for tests; CLICKHOUSE_USER and CLICKHOUSE_PASSWORD are its user.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--https-port", type=int)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    options = parser.parse_args()
    Handler.engine = Engine(options.data)
    Handler.user, Handler.password = os.environ["CLICKHOUSE_USER"], os.environ["CLICKHOUSE_PASSWORD"]
    ports = [(options.port, None)]
    if options.https_port:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
        ports.append((options.https_port, context))
    for port, context in ports:
        for host in ("127.0.0.1", "::1"):
            try:
                front = Front(host, port, context)
            except OSError:
                if host == "127.0.0.1":
                    raise
                continue  # this machine has no IPv6
            threading.Thread(target=front.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"ClickHouse {Handler.engine.version} answers on port {options.port}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


def stop(*_):
    """Let the running statements end, for a while; an engine that is not closed properly is a killed one, and must recover as well."""
    deadline = time.monotonic() + 10
    while Handler.engine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    if not Handler.engine.running:
        Handler.engine.base.close()
    os._exit(0)


if __name__ == "__main__":
    main()
