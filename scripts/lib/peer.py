"""What pg2ch is measured beside, as `scripts/bench --peers` runs it in a virtual environment of its own.

    peer.py produce POSTGRES_URL BROKERS TABLE TOPIC       reads unflagged rows, sends them, flags them, 1,000 at a time
    peer.py consume BROKERS CLICKHOUSE_URL TOPIC TARGET    reads 1,000 records, inserts them, commits the offsets
    peer.py copy TOOL POSTGRES_URL CLICKHOUSE_URL TABLE TARGET    the whole table without Kafka, by a library

Producer and consumer are what many begin with: each waits for its servers once a batch, and dies between two steps as it comes.
"""

import base64
import http.client
import importlib
import json
import sys
import urllib.parse

BATCH = 1000


def produce(postgres, brokers, table, topic):
    import confluent_kafka
    import psycopg2

    producer = confluent_kafka.Producer({"bootstrap.servers": brokers})
    failures = []
    delivered = lambda error, _: error and failures.append(error)
    with psycopg2.connect(postgres) as connection, connection.cursor() as cursor:
        while True:
            cursor.execute(
                f"SELECT id, user_id, event_type, event_time, payload FROM {table} WHERE NOT sent_to_kafka ORDER BY id LIMIT {BATCH}"
            )
            names, rows = [column.name for column in cursor.description], cursor.fetchall()
            if not rows:
                return
            for row in rows:
                value = json.dumps(dict(zip(names, row)), default=lambda time: time.isoformat())
                producer.produce(topic, value, str(row[0]), on_delivery=delivered)
            producer.flush()
            if failures:
                sys.exit(f"not delivered: {failures[0]}")
            cursor.execute(f"UPDATE {table} SET sent_to_kafka = TRUE WHERE id = ANY(%s)", ([row[0] for row in rows],))
            connection.commit()


def consume(brokers, clickhouse, topic, target):
    import confluent_kafka

    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": brokers, "group.id": topic, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "enable.partition.eof": True,
    })  # fmt: skip
    consumer.subscribe([topic])
    address = urllib.parse.urlsplit(clickhouse)
    server = http.client.HTTPConnection(address.hostname, address.port)
    user = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
    insert = urllib.parse.urlencode({
        "query": f"INSERT INTO {target} FORMAT JSONEachRow", "date_time_input_format": "best_effort",
        "input_format_json_read_objects_as_strings": 1,
    })  # fmt: skip
    ended = set()
    while not ended or len(ended) < len(consumer.assignment()):
        messages = consumer.consume(BATCH, 0.2)
        ended |= {message.partition() for message in messages if message.error()}
        values = [message.value() for message in messages if not message.error()]
        if values:
            server.request("POST", f"/?{insert}", b"\n".join(values), {"Authorization": f"Basic {user}"})
            answer = server.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                sys.exit(text)
            consumer.commit(asynchronous=False)
    consumer.close()


def copy(tool, postgres, clickhouse, table, target):
    library, address = importlib.import_module(tool), urllib.parse.urlsplit(clickhouse)
    database, _, name = target.partition(".")
    server = library.ClickHouse(
        f"http://{address.hostname}:{address.port}", database=database, user=address.username, password=address.password
    )
    library.sync(library.Postgres(postgres), server, source_table=table, dest_table=name, mode="full", key=["id"])


if __name__ == "__main__":
    {"produce": produce, "consume": consume, "copy": copy}[sys.argv[1]](*sys.argv[2:])
