"""What the three servers have in common: starting and ending processes, installing Debian packages, the download cache."""

import collections
import contextlib
import fcntl
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

LIB = pathlib.Path(__file__).resolve().parent
SQL = LIB.parent.parent / "sql"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "pg2ch"


class Failure(Exception):
    """Something a person has to look at; its text is the whole message."""


def run(argv, **options):
    """Run a command to its end; a failure shows the end of what it printed."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        command = textwrap.shorten(" ".join(map(str, argv)), 300)
        raise Failure(f"`{command}` failed with status {done.returncode}:\n{indented_end(done.stdout + done.stderr)}")
    return done.stdout


def indented_end(text, lines=25):
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


@contextlib.contextmanager
def locked(name):
    """A file of the cache, held by one process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / name, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@contextlib.contextmanager
def locked_cache():
    """The cache, held by one process at a time: two starts at once must not install into the same folder."""
    with locked("lock"):
        yield CACHE


def as_root():
    """What a command begins with that only root may run. A password that sudo needs is asked for on the terminal."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        raise Failure("this needs root's rights, and there is no sudo: run it as root")
    return ["sudo"]


def apt_install(*packages):
    """Install Debian packages, as root or through sudo. Of `one|other` the first is taken that this release has."""
    if not shutil.which("apt-get"):
        raise Failure(f"this machine has no apt-get; install by hand: {' '.join(packages)}")
    with locked_cache():
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        run([*as_root(), *quiet, "update"])
        packages = [first_available(names.split("|")) for names in packages]
        print(f"installing Debian packages: {' '.join(packages)}", flush=True)
        run([*as_root(), *quiet, "install", "-y", "--no-install-recommends", *packages])
        note_installed(packages)


def first_available(names):
    """The first of these Debian packages that this release has; the first of all where it has none, for apt-get to complain of."""
    # It succeeds, and prints nothing, for a package that others only name.
    shown = (subprocess.run(["apt-cache", "show", name], capture_output=True).stdout for name in names)
    return next((name for name, package in zip(names, shown) if package), names[0])


def note_installed(packages):
    """Note what was installed where scripts/demo --undo looks, as scripts/lib/install.sh does."""
    state = pathlib.Path(os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local/state")
    notes = state / "pg2ch" / "installed-packages"
    notes.parent.mkdir(parents=True, exist_ok=True)
    with open(notes, "a", encoding="utf-8") as file:
        file.writelines(f"{package}\n" for package in packages)


def python_with(name, packages, *options):
    """The Python of a virtual environment in the cache that has these packages; it is made on first use."""
    folder = CACHE / f"{name}-python{sys.version_info.major}.{sys.version_info.minor}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists() and python.exists():
        return python
    try:
        import ensurepip  # noqa: F401  Debian has it in a package of its own
    except ImportError:
        apt_install("python3-venv")
    with locked_cache():
        if not (complete.exists() and python.exists()):
            print(f"downloading {' '.join(packages)}", flush=True)
            run([sys.executable, "-m", "venv", "--clear", folder])
            # Nothing stays of what is downloaded, unless PIP_CACHE_DIR names a place for it.
            cache = [] if "PIP_CACHE_DIR" in os.environ else ["--no-cache-dir"]
            run([python, "-m", "pip", "install", "-q", *options, *cache, *packages])
            complete.touch()
    return python


@contextlib.contextmanager
def claimed_ports():
    """The directory that each claimed port belongs to. A port stays claimed while its directory exists, also when its server stands
    still: others that are started at the same time must not take it."""
    with locked("ports") as file:
        file.seek(0)
        pairs = (line.split(maxsplit=1) for line in file.read().splitlines())
        claimed = {int(port): directory for port, directory in pairs if pathlib.Path(directory).is_dir()}
        yield claimed
        file.truncate(0)
        file.writelines(f"{port} {directory}\n" for port, directory in claimed.items())


def free_port(claimed):
    """A free port that nobody has claimed, below the range that outgoing connections are given."""
    for port in random.sample(range(15000, 32000), 500):
        if port not in claimed and port_is_free(port):
            return port
    raise Failure("no free port between 15000 and 32000")


def port_is_free(port):
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


Process = collections.namedtuple("Process", "parent started state")


def stat_of(path):
    """The fields of a `stat` file of /proc: of the process or thread with that folder, from its state on."""
    # The command name, in parentheses, may hold anything; the fields begin after the last one.
    return pathlib.Path(path, "stat").read_text(errors="replace").rpartition(")")[2].split()


def process_table():
    """Every process by its pid. A process in state Z is dead."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = stat_of(f"/proc/{entry}")
                table[int(entry)] = Process(parent=int(fields[1]), started=int(fields[19]), state=fields[0])
    return table


def process_tree(root, table):
    """A process and all that it has started, its own pid first."""
    tree = [root]
    for pid in tree:
        tree += [child for child, process in table.items() if process.parent == pid]
    return tree


class Server:
    """One server. Its files are `DIR/<name>/`, `DIR/<name>.log` and `DIR/<name>.pid`; subclasses say how it is run."""

    name = ""
    title = ""
    stop_signal = signal.SIGTERM
    start_seconds = 90
    stop_seconds = 20

    def __init__(self, directory, state):
        self.directory = directory
        self.state = state
        self.data = directory / self.name
        self.log = directory / f"{self.name}.log"
        self.pid_file = directory / f"{self.name}.pid"
        self.log_start = 0

    # What a subclass says about itself.

    def install(self):
        """Bring the server's program onto this machine, from the cache where it can."""

    def create(self):
        """Make the data directory, where there is none."""

    def command(self):
        """The command that runs the server in the foreground, and Popen's options for it."""
        raise NotImplementedError

    def ready(self):
        """Raise an exception until the server answers."""
        raise NotImplementedError

    def load(self):
        """Load the initial contents; harmless when they are there already."""

    def port_of(self, name):
        """The number of one of the ports that servers.env names; None where there is none, as without --tls."""
        number = self.state.get(f"SERVERS_{name.upper()}_PORT")
        return int(number) if number else None

    @property
    def port(self):
        return self.port_of(self.name)

    @property
    def tls(self):
        """The folder of the certificates, where TLS is wanted."""
        return self.directory / "tls" if "SERVERS_CA" in self.state else None

    # The life of the process.

    def pid(self):
        """The pid of the running server that this program started, else None. A pid that was given to another process since has
        another start time."""
        try:
            pid, started = map(int, self.pid_file.read_text().split())
        except (OSError, ValueError):
            return None
        process = process_table().get(pid)
        return pid if process and process.started == started and process.state != "Z" else None

    def up(self, load):
        """Install, start and fill the server. Says whether it had to be started."""
        running = self.pid()
        if not running:
            self.install()
            self.create()
            self.start()
        if load:
            self.load()
        return not running

    def start(self):
        if self.pid():
            return
        if not port_is_free(self.port):
            raise Failure(f"{self.title}: port {self.port} is taken by another program (--free-ports picks other ones)")
        argv, options = self.command()
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **{"cwd": "/", **options}
            )
        started = process_table()[process.pid].started
        self.pid_file.write_text(f"{process.pid} {started}\n")
        deadline = time.monotonic() + self.start_seconds
        while True:
            ended = process.poll()
            try:
                if ended is None:
                    return self.ready()
            except Exception as error:  # whatever it is, it is told when the time is up
                reason = error
            if ended is not None:
                self.pid_file.unlink()
                raise Failure(f"{self.title} ended at its start (status {ended}); the end of {self.log}:\n{self.log_end()}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.title} does not answer ({reason}); the end of {self.log}:\n{self.log_end()}")
            time.sleep(0.05)

    def log_end(self):
        """What the server wrote since it was started, the last lines of it."""
        return indented_end(self.log.read_bytes()[self.log_start :].decode(errors="replace"))

    def stop(self):
        """Ask the server to end, wait, and kill it after a while. Says whether it ran."""
        pid = self.pid()
        if pid:
            self.signal(signal.SIGCONT)
            os.kill(pid, self.stop_signal)
            deadline = time.monotonic() + self.stop_seconds
            while self.pid():
                if time.monotonic() > deadline:
                    self.kill()
                    break
                time.sleep(0.03)
        self.pid_file.unlink(missing_ok=True)
        return bool(pid)

    def kill(self):
        """SIGKILL to the whole process tree at once, as a power cut would do it."""
        tree = self.signal(signal.SIGKILL)
        while any(pid in tree and process.state != "Z" for pid, process in process_table().items()):
            time.sleep(0.01)
        self.pid_file.unlink(missing_ok=True)

    def signal(self, number):
        """Send a signal to every process of the server, the first one first so that it starts no more of them."""
        root = self.pid()
        if not root:
            return []
        sent = []
        while True:
            new = [pid for pid in process_tree(root, process_table()) if pid not in sent]
            if not new:
                return sent
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            sent += new
            if number == signal.SIGKILL:
                # Children of a dead process belong to init: there is no tree left to look at.
                return sent
