"""ClickHouse: PyPI's chdb-core, which is ClickHouse's engine as a library, behind our HTTP front (clickhouse_front.py)."""

import base64
import http.client
import os

from common import LIB, SQL, Failure, Server, python_with

PACKAGES = ["chdb-core==26.9.0", "lz4==4.4.5", "zstandard==0.25.0"]


def statements(file):
    """The statements of a file: the HTTP interface takes one at a time."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("--"))
    return [statement for statement in text.split(";") if statement.strip()]


class ClickHouse(Server):
    name = "clickhouse"
    title = "ClickHouse"

    def python(self):
        # Without dependencies: they are for data frames, which nothing here uses, and 350 MB.
        return python_with(PACKAGES[0].replace("==", "-"), PACKAGES, "--no-deps")

    def install(self):
        self.python()

    def create(self):
        self.data.mkdir(exist_ok=True)

    def command(self):
        front = [self.python(), LIB / "clickhouse_front.py", "--data", self.data, "--port", str(self.port)]
        if self.tls:
            front += ["--https-port", str(self.port_of("clickhouse_https"))]
            front += ["--cert", self.tls / "server.crt", "--key", self.tls / "server.key"]
        if self.users().exists():
            front += ["--users", self.users()]
        # The password comes through the environment: a command line is everybody's to read.
        user = {"CLICKHOUSE_USER": "app", "CLICKHOUSE_PASSWORD": "app"}
        return front, {"env": {**os.environ, **user, "TZ": "UTC", "PYTHONDONTWRITEBYTECODE": "1"}}

    def users(self):
        """A ClickHouse users.xml whose user `default` the engine runs as: without it that user may do everything."""
        return self.directory / "clickhouse-users.xml"

    def request(self, path, query=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            credentials = base64.b64encode(b"app:app").decode()
            body = query.encode() if query else None
            connection.request("POST" if query else "GET", path, body, {"Authorization": f"Basic {credentials}"})
            answer = connection.getresponse()
            content = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise Failure(f"ClickHouse answers {answer.status}: {content}")
            return content
        finally:
            connection.close()

    def ready(self):
        self.request("/ping")

    def load(self):
        for statement in statements(SQL / "clickhouse_init.sql"):
            self.request("/", statement)
