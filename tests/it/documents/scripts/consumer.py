"""A consumer as many begin with: reads the topic, inserts, commits its offsets. What it inserted last before it died comes again.

    consumer.py BROKERS CLICKHOUSE_URL OFFSETS [BATCHES]    dies by SIGKILL after that many INSERTs, before it commits the last

OFFSETS is a file, in the place of the offsets of a consumer group.
"""

import json
import os
import signal
import subprocess
import sys

BATCH = 10
brokers, clickhouse, offsets_file = sys.argv[1:4]
last = int(sys.argv[4]) if len(sys.argv) > 4 else None

offsets = json.load(open(offsets_file)) if os.path.exists(offsets_file) else {}
records = []
for partition in range(3):
    start = offsets.get(str(partition), 0)
    read = ["kcat", "-b", brokers, "-C", "-t", "user_logins", "-p", str(partition), "-o", str(start), "-e", "-q", "-f", "%o\t%s\n"]
    for line in subprocess.run(read, check=True, capture_output=True, text=True).stdout.splitlines():
        offset, value = line.split("\t", 1)
        records.append((str(partition), int(offset), json.loads(value)))

for batches, start in enumerate(range(0, len(records), BATCH), 1):
    batch = records[start : start + BATCH]
    rows = []
    for _, _, value in batch:
        value["event_time"] = value["event_time"][:19].replace("T", " ")
        value["payload"] = json.dumps(value["payload"])
        rows.append(json.dumps(value))
    body = "INSERT INTO analytics.user_logins (id, user_id, event_type, event_time, payload) FORMAT JSONEachRow\n" + "\n".join(rows)
    insert = ["curl", "-sS", "--fail-with-body", clickhouse, "--data-binary", "@-"]
    subprocess.run(insert, check=True, input=body, text=True)
    if batches == last:
        os.kill(os.getpid(), signal.SIGKILL)
    for partition, offset, _ in batch:
        offsets[partition] = offset + 1
    json.dump(offsets, open(offsets_file, "w"))
