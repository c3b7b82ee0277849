"""Apache Kafka in KRaft mode: one process that is broker and controller, or three of them that are a cluster."""

import base64
import contextlib
import functools
import glob
import hashlib
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import tempfile
import threading

from common import CACHE, LIB, Failure, Server, apt_install, locked_cache, run

POM = LIB / "kafka-pom.xml"
CLUSTER_ID = "pg2ch-local-servers-00"
TOPICS = {"user_logins": 3, "user_logins.dead": 1}

CONFIGURATION = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners={listeners},CONTROLLER://localhost:{controller}
advertised.listeners={advertised}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOOPBACK6:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL{plain}
log.dirs={data}
auto.create.topics.enable=false

# A single broker has one copy of everything; few partitions of the internal topics make the first start quick.
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0

# A broker that was killed is let in again when its old session has run out: 9 seconds by default. One that is never killed may
# have a longer one (KAFKA_BROKER_SESSION_MS): a machine with too much to do holds its threads up for seconds.
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms={heartbeat}
"""

TLS = """
ssl.keystore.type=PEM
ssl.keystore.location={tls}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={tls}/ca.crt
# Who comes by this way shows a certificate of our authority.
listener.name.ssl.ssl.client.auth=required
# Clients without TLS, `app` and `careful` may do everything; `pg2ch` what it is granted.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:app;User:careful;User:CN=localhost
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_app="app" user_careful="hunter2-is-secret";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.jwks.endpoint.url=file://{tls}/tokens.jwks
listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.audience=kafka
listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.clock.skew.seconds=0
# A connection lives as long as the token with which it was made, unless it gets another one in time.
listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=3600000
"""

# SCRAM's users are part of the cluster's metadata; they are there from the start, whether TLS is on or not.
SCRAM_USERS = [f"--add-scram=SCRAM-SHA-{size}=[name={user},password={user}]" for size in (256, 512) for user in ("app", "pg2ch")]

# Kafka's own commands, as its distribution names them, and the classes behind them.
TOOLS = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}

LOGGING = """
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


def java_program():
    """A Java that Kafka 4 runs on: of version 17 or later. None where there is none."""
    programs = [shutil.which("java"), *sorted(glob.glob("/usr/lib/jvm/*/bin/java"))]
    return next((program for program in programs if program and java_version(program) >= 17), None)


@functools.cache
def java_release(program):
    """What it says of itself."""
    return subprocess.run([program, "-version"], capture_output=True, text=True).stderr


def java_version(program):
    """The first number of its version: 17 of `openjdk version "17.0.15"`, 1 of `1.8.0`."""
    number = re.search(r'version "(\d+)', java_release(program))
    return int(number[1]) if number else 0


def libraries(pom):
    """The folder of a POM's jars; another version of them has another one."""
    return CACHE / f"{pom.stem.removesuffix('-pom')}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"


def jars(pom):
    """The jars that a POM names, downloaded on first use."""
    folder = libraries(pom)
    if not folder.exists():
        if not shutil.which("mvn"):
            apt_install("maven")
        with locked_cache():
            if not folder.exists():
                download(pom, folder)
    return sorted(map(str, folder.glob("*.jar")))


def download(pom, target):
    print(f"downloading the jars of {pom.name}", flush=True)
    unfinished = target.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ["-q", "-B", "-Dstyle.color=never", f"-DoutputDirectory={unfinished}"]
    with tempfile.TemporaryDirectory(dir=CACHE) as repository:
        # Nothing stays of Maven's own downloads, unless MAVEN_OPTS names a place for them.
        if "maven.repo.local" not in os.environ.get("MAVEN_OPTS", ""):
            options.append(f"-Dmaven.repo.local={repository}")
        run(["mvn", *options, "-f", pom, "dependency:copy-dependencies"])
    unfinished.rename(target)


class Kafka(Server):
    name = "kafka"
    title = "Kafka"
    node = 1

    def install(self):
        if not java_program():
            apt_install("openjdk-21-jre-headless|openjdk-17-jre-headless|openjdk-25-jre-headless")
        self.jars()

    @staticmethod
    def libraries():
        return libraries(POM)

    @staticmethod
    def jars():
        return jars(POM)

    def archive(self):
        """Kafka's classes as this Java keeps them: with them, a broker starts with half the CPU. The first one that is stopped makes
        them (https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html)."""
        return self.libraries() / f"classes-{hashlib.sha256(java_release(java_program()).encode()).hexdigest()[:12]}.jsa"

    def own_archive(self):
        return self.directory / f"{self.name}.jsa"

    def stop(self):
        was_running = super().stop()
        if self.own_archive().exists():
            unfinished = self.archive().with_suffix(f".{os.getpid()}")
            shutil.move(self.own_archive(), unfinished)
            unfinished.replace(self.archive())
        return was_running

    def kill(self):
        super().kill()
        # It may be half written.
        self.own_archive().unlink(missing_ok=True)

    # The heap is small, but it is there from the start. The exit on a full heap makes a broken broker a dead one.
    # KAFKA_JVM_PERFORMANCE_OPTS is what Kafka's own scripts call it.
    BROKER = ("-Xms512m", "-Xmx512m", "-XX:+ExitOnOutOfMemoryError", *shlex.split(os.environ.get("KAFKA_JVM_PERFORMANCE_OPTS", "")))
    ONE_OF_THREE = ("-Xms160m", "-Xmx256m", "-XX:+ExitOnOutOfMemoryError", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    # A command lives for a second: what takes time to begin is left out.
    TOOL = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

    def java(self, options, main, *arguments):
        logging = f"-Dlog4j2.configurationFile={self.directory / 'kafka-log4j2.properties'}"
        return [java_program(), *self.sharing(), *options, "-Djava.awt.headless=true", logging, "-cp", os.pathsep.join(self.jars()), main, *arguments]

    def sharing(self):
        """Java's options for the archive. One that does not fit is ignored."""
        return [f"-XX:SharedArchiveFile={self.archive()}", "-Xlog:cds*=off"] if self.archive().exists() else []

    def write_tools(self):
        """`DIR/bin` has Kafka's commands: with it in front of PATH, what documents and findings say can be typed as it stands."""
        folder = self.directory / "bin"
        folder.mkdir(exist_ok=True)
        for name, main in TOOLS.items():
            script = folder / name
            command = shlex.join([java_program(), *self.sharing(), *self.TOOL, "-cp", os.pathsep.join(self.jars()), main])
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)

    def settings(self):
        return self.directory / f"{self.name}.properties"

    def nodes(self):
        """The brokers of the cluster that this one belongs to."""
        return [kind for kind in (Kafka, Kafka2, Kafka3) if f"SERVERS_{kind.name.upper()}_PORT" in self.state]

    def create(self):
        (self.directory / "kafka-log4j2.properties").write_text(LOGGING)
        self.write_tools()
        ports = {"PLAINTEXT": self.port}
        if self.tls:
            ports |= {"SSL": self.port_of("kafka_ssl"), "SASL_SSL": self.port_of("kafka_sasl")}
        advertised = ",".join(f"{name}://localhost:{port}" for name, port in ports.items())
        listeners = advertised.replace("localhost", "127.0.0.1")
        if has_ipv6():
            # Where `localhost` is ::1 too, clients may try that first: the same port there, as a listener of its own.
            advertised += f",LOOPBACK6://localhost:{self.port}"
            listeners += f",LOOPBACK6://[::1]:{self.port}"
        nodes = self.nodes()
        proxies = [(n, self.port_of(f"kafka_proxied_{n}"), self.port_of(f"kafka_proxy_{n}")) for n in (1, 2, 3)]
        # The proxies lead to one broker only.
        proxies = [proxy for proxy in proxies if all(proxy) and len(nodes) == 1]
        for number, listens_on, tells in proxies:
            listeners += f",PROXIED{number}://127.0.0.1:{listens_on}"
            advertised += f",PROXIED{number}://127.0.0.1:{tells}"
        session = int(os.environ.get("KAFKA_BROKER_SESSION_MS", "2000"))
        settings = CONFIGURATION.format(
            listeners=listeners, advertised=advertised, controller=self.port_of(f"{self.name}_controller"), data=self.data,
            node=self.node, copies=len(nodes), in_sync=2 if len(nodes) > 2 else 1,
            voters=",".join(f"{kind.node}@localhost:{self.port_of(f'{kind.name}_controller')}" for kind in nodes),
            plain="".join(f",PROXIED{number}:PLAINTEXT" for number, _, _ in proxies),
            session=session, heartbeat=min(session // 6, 2000),
        )  # fmt: skip
        self.settings().write_text(settings + (TLS.format(tls=self.tls) if self.tls else ""))
        if not (self.data / "meta.properties").exists():
            with FORMATTING:
                self.format()

    def format(self):
        """Make the folder of the data. Kafka's own command does so once: what it writes is the same for all, but for two ids."""
        identity = hashlib.sha256(repr((CLUSTER_ID, SCRAM_USERS)).encode()).hexdigest()[:12]
        formatted = self.libraries() / f"formatted-{identity}"
        # What an earlier try has left would be refused.
        shutil.rmtree(self.data, ignore_errors=True)
        if not formatted.exists():
            run(self.java(self.TOOL, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self.settings(), *SCRAM_USERS))
            unfinished = formatted.with_suffix(f".{os.getpid()}")
            shutil.copytree(self.data, unfinished)
            with contextlib.suppress(OSError):  # Another process was first.
                unfinished.rename(formatted)
            shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(formatted, self.data, dirs_exist_ok=True)
        properties = self.data / "meta.properties"
        text = re.sub(r"(?m)^node.id=.*", f"node.id={self.node}", properties.read_text())
        properties.write_text(re.sub(r"(?m)^directory.id=.*", f"directory.id={random_id()}", text))

    def command(self):
        options = self.BROKER if len(self.nodes()) == 1 else self.ONE_OF_THREE
        if not self.archive().exists():
            options = [f"-XX:ArchiveClassesAtExit={self.own_archive()}", "-Xlog:cds*=off", *options]
        if self.tls:
            options = [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{self.tls}/tokens.jwks", *options]
        return self.java(options, "kafka.Kafka", self.settings()), {}

    def ready(self):
        # Asking for these once spares the first client a wait: the internal topics are created when a coordinator is looked for,
        # and the first producer id after a start is refused until the broker has fetched a block of them.
        for kind in (GROUP, TRANSACTION):
            find_coordinator(self.port, kind)
        init_producer_id(self.port)

    def load(self):
        create_topics(self.port, TOPICS)


class Kafka2(Kafka):
    name = "kafka2"
    title = "Kafka's second broker"
    node = 2

    def load(self):
        """The first one does."""


class Kafka3(Kafka2):
    name = "kafka3"
    title = "Kafka's third broker"
    node = 3


# One broker's folder at a time is made.
FORMATTING = threading.Lock()


def random_id():
    """As Kafka makes them: sixteen bytes, in Base64 without its padding."""
    return base64.urlsafe_b64encode(b"A" + os.urandom(15)).decode().rstrip("=")


def has_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


# The few requests we need of Kafka's protocol: a JVM for its command line tools takes longer to start than the broker.

GROUP, TRANSACTION = 0, 1
FIND_COORDINATOR, CREATE_TOPICS, INIT_PRODUCER_ID = 10, 19, 22
TOPIC_ALREADY_EXISTS = 36


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def request(port, api, version, body):
    """Send one request and return the answer's body."""
    message = struct.pack(">hhi", api, version, 1) + text("servers") + body
    with socket.create_connection(("localhost", port), timeout=20) as connection:
        connection.sendall(struct.pack(">i", len(message)) + message)
        with connection.makefile("rb") as answers:
            header = answers.read(8)
            if len(header) < 8:
                raise Failure("Kafka closed the connection")
            size, _ = struct.unpack(">ii", header)
            return answers.read(size - 4)


def find_coordinator(port, kind):
    answer = request(port, FIND_COORDINATOR, 1, text("servers") + struct.pack(">b", kind))
    (error,) = struct.unpack_from(">h", answer, 4)
    if error:
        raise Failure(f"no coordinator yet (Kafka's error code {error})")


def init_producer_id(port):
    answer = request(port, INIT_PRODUCER_ID, 1, struct.pack(">hi", -1, 0))
    (error,) = struct.unpack_from(">h", answer, 4)
    if error:
        raise Failure(f"no producer id yet (Kafka's error code {error})")


def create_topics(port, topics):
    body = struct.pack(">i", len(topics))
    for name, partitions in topics.items():
        # As many copies as is usual, no assignment by hand, no configuration.
        body += text(name) + struct.pack(">ihii", partitions, -1, 0, 0)
    answer = request(port, CREATE_TOPICS, 4, body + struct.pack(">i?", 20000, False))
    # Behind the time that the client is to wait, and the number of topics.
    position = 8
    for _ in topics:
        (length,) = struct.unpack_from(">h", answer, position)
        name = answer[position + 2 : position + 2 + length].decode()
        position += 2 + length
        error, message = struct.unpack_from(">hh", answer, position)
        reason = answer[position + 4 : position + 4 + max(message, 0)].decode()
        position += 4 + max(message, 0)
        if error not in (0, TOPIC_ALREADY_EXISTS):
            raise Failure(f"Kafka did not create the topic {name}: {reason} (code {error})")
