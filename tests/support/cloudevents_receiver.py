"""Receives batches of CloudEvents over HTTP. Arguments: PORT [SEED].

Reads each event with the package `cloudevents`, accepts it unless its source and id are known, and prints the numbers
of new and known events of each batch. PORT 0 picks a free port.

With a SEED, a third of the posts fail at random: with 503, or by a connection that closes after the batch was
accepted. Standard input then takes commands, one per line:

hold         accepts the next batch, prints `held` and does not respond
unavailable  responds to the next post with 503 and prints `unavailable`
recover      accepts all further posts
report       prints `report` and what was received, as JSON
"""

import json
import random
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

port, seed = int(sys.argv[1]), (sys.argv[2:] or [None])[0]
faults = random.Random(seed) if seed else None
lock = threading.Lock()
commands = []
# Both kinds occur, whatever the seed.
first_faults = ["drop", "unavailable"]
accepted = {}
costs = {}
counts = dict.fromkeys(["posts", "unavailable", "dropped", "held", "duplicates"], 0)
errors = []


def emit(*words):
    print(*words, flush=True)


def read_batch(headers, body):
    """The events of a batch. The package has no function for batches, which are arrays of structured events."""
    if headers.get_content_type() != "application/cloudevents-batch+json":
        raise ValueError(f"content type {headers['content-type']}")
    structured = {"content-type": JSONFormat.CONTENT_TYPE}
    events = []
    for item in json.loads(body):
        message = HTTPMessage(structured, json.dumps(item).encode())
        # Optional attributes that a billing system needs: the package would fill in the current time.
        for attribute in ["id", "specversion", "subject", "time"]:
            if attribute not in item:
                raise ValueError(f"no {attribute} in {item}")
        events.append(from_structured(message, JSONFormat(), CloudEvent))
    return events


def accept(events):
    new = 0
    for event in events:
        identity = (event.get_source(), event.get_id())
        content = {
            "source": event.get_source(),
            "id": event.get_id(),
            "type": event.get_type(),
            "subject": event.get_subject(),
            "time": event.get_time().isoformat(),
            "datacontenttype": event.get_datacontenttype(),
            "data": event.get_data(),
        }
        if identity not in accepted:
            accepted[identity] = content
            costs[event.get_subject()] = costs.get(event.get_subject(), 0) + event.get_data()["billable_cost"]
            new += 1
        elif accepted[identity] != content:
            errors.append(f"{identity} was posted again with other content")
    counts["duplicates"] += len(events) - new
    emit(f"accepted {new} events, {len(events) - new} known")


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with lock:
            counts["posts"] += 1
            command = commands.pop(0) if commands else None
            action = command or self.fault()
            if action == "unavailable":
                counts["unavailable"] += 1
                self.respond(503, "simulated outage")
                return emit("unavailable") if command else None
            try:
                accept(read_batch(self.headers, body))
            except Exception as error:
                errors.append(repr(error))
                return self.respond(400, repr(error))
            if action == "drop":
                counts["dropped"] += 1
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            if action != "hold":
                return self.respond(204)
            counts["held"] += 1
        emit("held")
        self.close_connection = True
        try:
            self.rfile.read(1)
        except ConnectionError:
            pass

    def fault(self):
        if faults is None:
            return None
        if first_faults:
            return first_faults.pop(0)
        return faults.choice(["unavailable", "drop", None, None, None, None])

    def respond(self, status, text=""):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *arguments):
        """Ignores clients that were killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*arguments)


server = Server(("127.0.0.1", port), Receiver)
emit(f"listening on http://127.0.0.1:{server.server_port}/api/v1/events")
if seed is None:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit()
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in sys.stdin:
    command = line.strip()
    with lock:
        if command == "recover":
            faults = None
        elif command == "report":
            report = {"events": list(accepted.values()), "costs": costs, "errors": errors}
            emit("report", json.dumps(report | counts))
        else:
            commands.append(command)
