"""The engine behind clickhouse_front.py: PyPI's chdb, and what it takes to run a server's statements in it as a server would."""

import os
import re
import threading

from chdb import _chdb

# The exceptions of ClickHouse that are raised here; all others are the engine's.
CODES = {
    "NOT_IMPLEMENTED": 48,
    "SYNTAX_ERROR": 62,
    "UNKNOWN_SETTING": 115,
    "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING": 216,
    "ZLIB_INFLATE_FAILED": 354,
    "AUTHENTICATION_FAILED": 516,
    "ZSTD_DECODER_FAILED": 561,
    "LZ4_DECODER_FAILED": 618,
    "STD_EXCEPTION": 1001,
}

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

# An exception that chdb has wrapped into another one with the same code.
WRAPPED = re.compile(r"Code: (\d+)\. DB::Exception: (Code: \1\. .*\(version [^)]*\))\. \(\w+\)(?: \(version [^)]*\))?", re.DOTALL)
OUR_FILE = re.compile(r"\(in file/uri /proc/self/fd/\d+\): |: While executing File: data for INSERT was parsed from file")


class Refusal(Exception):
    """An exception of ClickHouse that does not come from the engine."""

    def __init__(self, name, text):
        super().__init__(f"Code: {CODES[name]}. DB::Exception: {text}. ({name})")


def refuse(what):
    raise Refusal("NOT_IMPLEMENTED", f"{what}: not supported by this stand-in for a ClickHouse server")


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
        if word == b"INFILE":
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
        raise Refusal("SYNTAX_ERROR", "You have excessive ';' symbol before data for INSERT")
    start = re.compile(rb"[ \t\f]*\r?\n?").match(text, start).end()
    if not query:
        return text[start:]
    return text[start:] + body if start < len(text) else body


def server_text(text):
    """The engine's message as a server would word it: without what chdb wraps around it, and without our file."""
    text = text.strip()
    while wrapped := WRAPPED.fullmatch(text):
        text = wrapped.group(2)
    return OUR_FILE.sub("", text)


class Engine:
    """The engine and the requests that run in it."""

    def __init__(self, path, users=None):
        self.path = path
        if users:
            # The engine takes its users from a configuration's file, and reads their privileges once, at its start.
            configuration = os.path.splitext(users)[0] + "-config.xml"
            with open(configuration, "w", encoding="utf-8") as file:
                file.write(f"<clickhouse><users_config>{users}</users_config></clickhouse>\n")
            self.path = f"{path}?config-file={configuration}"
        # Keeps the engine up while no request does; opening connections one at a time costs nothing.
        self.base = _chdb.connect(self.path)
        self.opening = threading.Lock()
        self.running = set()
        self.version, self.timezone = self.base.query("SELECT version(), timezone()", "TSV").bytes().decode().split()

    def execute(self, request):
        """Run a request's statement. Gives the result, the name of its format, and the statistics of the summary."""
        insert = parse_insert(request.query, request.body)
        with self.opening:
            if request.query_id in self.running:
                text = f"Query with id = {request.query_id} is already running"
                raise Refusal("QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", text)
            connection = _chdb.connect(self.path)
            self.running.add(request.query_id)
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
                raise Refusal("UNKNOWN_SETTING", f"Unknown setting '{name}'")
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
        text = b"\n".join(filter(None, (request.query, request.body))).decode()
        if not text.strip():
            raise Refusal("SYNTAX_ERROR", "Syntax error: failed at position 1 (end of query)")
        if "outfile" in text.lower() and any(word == b"OUTFILE" for word, _, _ in tokens(text.encode())):
            refuse("SELECT ... INTO OUTFILE over HTTP")
        if connection.classify_query(text)["statement_count"] > 1:
            raise Refusal("SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        result = connection.query(text, request.default_format)
        content = bytes(result.bytes())
        named = OUTPUT_FORMAT.search(text[-1000:])
        read = {"read_rows": str(result.storage_rows_read()), "read_bytes": str(result.storage_bytes_read())}
        return content, named.group(1) if named else request.default_format, read
