"""PostgreSQL from Debian's packages."""

import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import signal

from common import SQL, Failure, Server, apt_install, as_root, process_table, run

CONFIGURATION = """
listen_addresses = 'localhost'
unix_socket_directories = ''
max_connections = 200
log_line_prefix = '%m [%p] %q%u@%d '
timezone = 'UTC'
log_timezone = 'UTC'
"""

# A password is asked for on every way in, so that a wrong one fails here as it does in production.
ACCESS = """
host  all  all  127.0.0.1/32  scram-sha-256
host  all  all  ::1/128       scram-sha-256
host  replication  postgres  127.0.0.1/32  scram-sha-256
"""


NO_MAIN_CLUSTER = "/etc/postgresql-common/createcluster.d/pg2ch.conf"


@contextlib.contextmanager
def no_main_cluster():
    """While this lasts, Debian's package creates no cluster of its own: that one would run on the port we need."""
    folder = os.path.dirname(NO_MAIN_CLUSTER)
    run([*as_root(), "sh", "-c", f"mkdir -p {folder} && echo 'create_main_cluster = false' > {NO_MAIN_CLUSTER}"])
    try:
        yield
    finally:
        run([*as_root(), "rm", "-f", NO_MAIN_CLUSTER])


class Postgres(Server):
    name = "postgres"
    title = "PostgreSQL"
    stop_signal = signal.SIGINT  # the "fast" shutdown: open sessions are ended

    def install(self):
        if not self.programs():
            with no_main_cluster():
                apt_install("postgresql")
        if not self.programs():
            raise Failure("PostgreSQL: no /usr/lib/postgresql/*/bin/postgres after the installation")

    @staticmethod
    def programs():
        """The newest version's folder of programs."""
        found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
        newest = max(found, key=lambda path: float(path.split("/")[4]), default=None)
        if not newest and shutil.which("postgres"):
            newest = os.path.realpath(shutil.which("postgres"))
        return pathlib.Path(newest).parent if newest else None

    def account(self):
        """PostgreSQL refuses to run as root; there it runs as an unprivileged user. Popen's options for that."""
        if os.geteuid() != 0:
            return {}
        for user in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(user)
            except KeyError:
                continue
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        raise Failure("PostgreSQL: there is neither a user `postgres` nor `nobody` to run it as")

    def create(self):
        if not (self.data / "PG_VERSION").exists():
            self.initialise()
        if self.tls:
            # The key must belong to the server's user, so it gets its own copy.
            for name in ("server.crt", "server.key"):
                shutil.copy(self.tls / name, self.data / name)
                (self.data / name).chmod(0o600)
                shutil.chown(self.data / name, self.data.stat().st_uid, self.data.stat().st_gid)

    def make_folder(self):
        """An empty folder for the data, of the server's user; Popen's options for that user."""
        account = self.account()
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        if account:
            os.chown(self.data, account["user"], account["group"])
            blocked = [path for path in self.data.parents if not path.stat().st_mode & 0o001]
            if blocked:
                raise Failure(f"PostgreSQL does not run as root, and its user cannot enter {blocked[-1]}: choose another --dir")
        return account

    def initialise(self):
        account = self.make_folder()
        password = self.directory / "postgres.password"
        password.write_text("postgres\n")
        try:
            password.chmod(0o644)
            run(
                [self.programs() / "initdb", "-D", self.data, "-U", "postgres", f"--pwfile={password}", "-A", "scram-sha-256",
                 "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"],
                cwd="/", **account,
            )  # fmt: skip
        finally:
            password.unlink()
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as settings:
            settings.write(CONFIGURATION)
        (self.data / "pg_hba.conf").write_text(ACCESS)

    def start(self):
        # A postmaster that was killed stays in the process table until init takes note, which some containers' init does only
        # after seconds. PostgreSQL would believe that it still runs.
        lock = self.data / "postmaster.pid"
        if lock.exists() and not self.pid():
            process = process_table().get(int(lock.read_text().split()[0]))
            if process and process.state == "Z":
                lock.unlink()
        super().start()

    def command(self):
        options = ["-D", self.data, "-p", str(self.port), "-c", f"ssl={'on' if self.tls else 'off'}"]
        return [self.programs() / "postgres", *options], self.account()

    def sql(self, *arguments, user="app", database="app"):
        """Run psql over TCP, as every other client would."""
        environment = {**os.environ, "PGPASSWORD": user, "PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "5"}
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database]
        return run(
            [self.programs() / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *address, *arguments],
            env=environment, cwd="/",
        )  # fmt: skip

    def ready(self):
        exists = self.sql("-c", "SELECT 1 FROM pg_database WHERE datname = 'app'", user="postgres", database="postgres")
        if not exists.strip():
            self.sql("-c", "CREATE ROLE app LOGIN PASSWORD 'app'", "-c", "CREATE DATABASE app OWNER app",
                     user="postgres", database="postgres")  # fmt: skip

    def load(self):
        self.sql("--single-transaction", "-f", SQL / "postgres_init.sql")


class Standby(Postgres):
    """A streaming standby of the other one."""

    name = "standby"
    title = "PostgreSQL's standby"

    def initialise(self):
        account = self.make_folder()
        environment = {**os.environ, "PGPASSWORD": "postgres"}
        primary = ["-h", "127.0.0.1", "-p", str(self.port_of("postgres")), "-U", "postgres"]
        run([self.programs() / "pg_basebackup", "-D", self.data, "-R", "--checkpoint=fast", "--no-sync", *primary],
            env=environment, cwd="/", **account)  # fmt: skip

    def load(self):
        """The primary has everything."""
