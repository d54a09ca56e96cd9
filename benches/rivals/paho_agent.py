#!/usr/bin/python3
"""The agent as one would write it in an afternoon: paho-mqtt and http.client. A rival for the benchmark, not for use.

It verifies nothing, persists nothing and trusts every document. On a paid document it uploads without end; on a free one
it closes the upload's socket and reports.

With --public-key and --state it does the least that a careful agent must: it verifies the signature, and its report waits
until the document is on flash. It still checks neither order nor lease nor recipient.
"""

import argparse
import base64
import http.client
import json
import os
import socket
import ssl
import threading
import time

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CLIP = bytes(8_000_000)


class Upload:
    """One PUT after the other, until stopped."""

    def __init__(self, host, port, tls):
        self.connection = http.client.HTTPSConnection(host, port, context=tls)
        self.stopped = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.stopped:
                self.connection.request("PUT", "/clips/rival/0", body=CLIP)
                self.connection.getresponse().read()
        except (OSError, http.client.HTTPException, AttributeError, ValueError):
            if not self.stopped:
                raise

    def stop(self):
        self.stopped = True
        sock = self.connection.sock
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


def decoded(part):
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def main():
    parser = argparse.ArgumentParser()
    for name in ("broker", "store", "ca", "cert", "key", "device", "prefix"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--public-key", help="Ed25519, base64url")
    parser.add_argument("--state", help="the file that holds the last document")
    args = parser.parse_args()
    broker, broker_port = args.broker.rsplit(":", 1)
    store, store_port = args.store.rsplit(":", 1)
    base = f"{args.prefix}/{args.device}"

    tls = ssl.create_default_context(cafile=args.ca)
    tls.load_cert_chain(args.cert, args.key)
    upload = None
    public_key = Ed25519PublicKey.from_public_bytes(decoded(args.public_key.encode())) if args.public_key else None
    state = os.open(args.state, os.O_RDWR | os.O_CREAT, 0o600) if args.state else None

    def on_connect(client, _userdata, _flags, _rc):
        client.subscribe(base + "/entitlement", qos=1)

    def on_message(client, _userdata, message):
        nonlocal upload
        started = time.monotonic()
        signed, signature = message.payload.rsplit(b".", 1)
        if public_key is not None:
            public_key.verify(decoded(signature), signed)
        document = json.loads(decoded(signed.split(b".")[1]))
        paid = document["plan"] != "free"
        transfers = 0
        if upload is not None:
            upload.stop()
            upload = None
            transfers = 1
        if paid:
            upload = Upload(store, int(store_port), tls)
        cut_ended = time.monotonic()
        if state is not None:
            os.pwrite(state, message.payload, 0)
            os.fdatasync(state)
        position = {"epoch": document["epoch"], "seq": document["seq"]}
        report = {
            "device": args.device, "outcome": "applied", "reason": document["reason"], "cause": "document", "judged": position,
            **position, "digest": None, "plan": document["plan"], "mode": "paid" if paid else "free",
            "persisted": state is not None,
            "keyset": 0, "cut": {"transfers": transfers, "micros": int((cut_ended - started) * 1e6), "bytes_after": 0},
            "erased": {"clips": 0, "bytes": 0}, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "agent": "paho",
        }
        client.publish(base + "/report", json.dumps(report), qos=1, retain=True)

    client = mqtt.Client(client_id=args.device, clean_session=False)
    client.on_connect = on_connect
    client.on_message = on_message
    client.tls_set_context(tls)
    client.connect(broker, int(broker_port), keepalive=30)
    client.loop_forever()


if __name__ == "__main__":
    main()
