#!/usr/bin/python3
"""The agent as one would write it in an afternoon: paho-mqtt and http.client. A rival for the benchmark, not for use.

It verifies nothing, persists nothing and trusts every document. On a paid document it uploads without end; on a free one
it closes the upload's socket and reports.
"""

import argparse
import base64
import http.client
import json
import socket
import ssl
import threading
import time

import paho.mqtt.client as mqtt

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


def main():
    parser = argparse.ArgumentParser()
    for name in ("broker", "store", "ca", "cert", "key", "device", "prefix"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    broker, broker_port = args.broker.rsplit(":", 1)
    store, store_port = args.store.rsplit(":", 1)
    base = f"{args.prefix}/{args.device}"

    tls = ssl.create_default_context(cafile=args.ca)
    tls.load_cert_chain(args.cert, args.key)
    upload = None

    def on_connect(client, _userdata, _flags, _rc):
        client.subscribe(base + "/entitlement", qos=1)

    def on_message(client, _userdata, message):
        nonlocal upload
        started = time.monotonic()
        payload = message.payload.split(b".")[1]
        document = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        paid = document["plan"] != "free"
        transfers = 0
        if upload is not None:
            upload.stop()
            upload = None
            transfers = 1
        if paid:
            upload = Upload(store, int(store_port), tls)
        position = {"epoch": document["epoch"], "seq": document["seq"]}
        report = {
            "device": args.device, "outcome": "applied", "reason": document["reason"], "cause": "document", "judged": position,
            **position, "digest": None, "plan": document["plan"], "mode": "paid" if paid else "free", "persisted": False,
            "keyset": 0, "cut": {"transfers": transfers, "micros": int((time.monotonic() - started) * 1e6), "bytes_after": 0},
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
