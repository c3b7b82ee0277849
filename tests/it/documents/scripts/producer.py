"""A producer as many begin with: reads unflagged rows, sends JSON, flags. It knows no transaction across the two.

    producer.py POSTGRES_URL BROKERS [BATCHES]    dies by SIGKILL after it has sent that many batches, before it flags the last
"""

import csv
import io
import json
import os
import signal
import subprocess
import sys

BATCH = 30
postgres, brokers = sys.argv[1:3]
last = int(sys.argv[3]) if len(sys.argv) > 3 else None


def sql(statement):
    command = ["psql", "-qX", "--csv", "-v", "ON_ERROR_STOP=1", postgres, "-c", statement]
    return list(csv.DictReader(io.StringIO(subprocess.run(command, check=True, capture_output=True, text=True).stdout)))


batches = 0
while rows := sql(f"SELECT id, user_id, event_type, event_time, payload FROM user_logins WHERE sent_to_kafka = FALSE ORDER BY id LIMIT {BATCH}"):
    lines = []
    for row in rows:
        value = {
            "id": int(row["id"]),
            "user_id": int(row["user_id"]),
            "event_type": row["event_type"],
            "event_time": row["event_time"].replace(" ", "T") + ":00",
            "payload": json.loads(row["payload"]) if row["payload"] else None,
        }
        lines.append(f"{row['id']}\t{json.dumps(value)}\n")
    send = ["kcat", "-b", brokers, "-P", "-t", "user_logins", "-K", "\t"]
    subprocess.run(send, check=True, input="".join(lines), text=True)
    batches += 1
    if batches == last:
        os.kill(os.getpid(), signal.SIGKILL)
    sql(f"UPDATE user_logins SET sent_to_kafka = TRUE WHERE id IN ({', '.join(row['id'] for row in rows)})")
