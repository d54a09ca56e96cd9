"""A Care cloud of your own: keys, keyset, plans, reports, grants and a clip store. README.md says how to run it.

    python3 publisher.py DATA BROKER-HOST BROKER-PORT API-HOST API-PORT CERTIFICATES
"""
import base64, hashlib, json, os, secrets, ssl, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

PREFIX, ISSUER, LEASE_S = "care/v1", "care", 172_800
FREE = {"clips": True, "history_h": 12, "clip_max_s": 12, "cooldown_s": 300, "max_height": 720, "snapshots": False}
PREMIUM = {"clips": True, "history_h": 720, "clip_max_s": 120, "cooldown_s": 0, "max_height": 2160, "snapshots": True}
b64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()

def sign(key, kid, typ, payload):
    header = {"alg": "EdDSA", "kid": kid, "typ": typ}
    signed = ".".join(b64(json.dumps(part).encode()) for part in (header, payload))
    return signed + "." + b64(key.sign(signed.encode()))

def write(path, data):  # a power cut leaves the old file or the new one
    with open(f"{path}.new", "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)

def load_key(path):
    if not path.exists():
        write(path, Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key = load_pem_private_key(path.read_bytes(), None)
    return key, b64(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

class Cloud:
    def __init__(self, data):
        self.data, self.lock, self.grants = Path(data), threading.RLock(), {}
        (self.data / "clips").mkdir(parents=True, exist_ok=True)
        state = self.data / "state.json"
        self.cameras = json.loads(state.read_text()) if state.exists() else {}
        # The root key signs keysets and nothing else. Keep yours offline, and sign version 2 when you change the other key.
        (root, root_x), (self.signer, x) = load_key(self.data / "root-2026.key"), load_key(self.data / "2026-11.key")
        keyset = {"iss": ISSUER, "version": 1, "iat": int(time.time()), "revoked": [], "resets": [],
                  "keys": [{"kid": "2026-11", "x": x, "not_before": 0}]}
        self.keyset = sign(root, "root-2026", "care-keyset+jws", keyset)
        print(f'root_keys = {{ "root-2026" = "{root_x}" }}', flush=True)

    def bind(self, camera, account):
        self.cameras[camera] = {"account": account, "epoch": self.cameras.get(camera, {"epoch": 0})["epoch"] + 1, "seq": 0}
        self.issue(camera, "free", FREE, "bound")

    def issue(self, camera, plan, policy, reason):
        """Signs a camera's next document, writes it down, and only then publishes it: no position is ever used twice."""
        now, known = int(time.time()), self.cameras[camera]
        known.update(seq=known["seq"] + 1, plan=plan, policy=policy, iat=now)
        document = {"iss": ISSUER, "aud": camera, "account": known["account"], "epoch": known["epoch"], "seq": known["seq"],
                    "plan": plan, "reason": reason, "channel": "portal", "iat": now, "policy": policy, "crit": [],
                    "lease": {"max_age_s": LEASE_S, "not_after": now + LEASE_S}}
        known["token"] = sign(self.signer, "2026-11", "care-entitlement+jws", document)
        write(self.data / "state.json", json.dumps(self.cameras).encode())
        self.client.publish(f"{PREFIX}/{camera}/entitlement", known["token"], qos=1, retain=True)

    def renew(self):  # each document again when half of its lease has passed
        while True:
            with self.lock:
                for camera, known in self.cameras.items():
                    if known.get("token") and time.time() > known["iat"] + LEASE_S / 2:
                        self.issue(camera, known["plan"], known["policy"], "renewed")
            time.sleep(60)

    def connected(self, client, *_):
        client.subscribe([(f"{PREFIX}/+/get", 1), (f"{PREFIX}/+/report", 1)])
        client.publish(f"{PREFIX}/keyset", self.keyset, qos=1, retain=True)

    def heard(self, client, _, message):
        camera, leaf = message.topic[len(PREFIX) + 1:].split("/")
        said = json.loads(message.payload)
        with self.lock:
            known = self.cameras.get(camera, {})
            if leaf == "get" and known.get("token"):
                answer = {"nonce": said["nonce"], "token": known["token"]}
                client.publish(f"{PREFIX}/{camera}/entitlement/answer", json.dumps(answer), qos=1)
            if leaf == "report":
                print(camera, *(said[name] for name in ("outcome", "reason", "epoch", "seq", "plan", "mode")), flush=True)
                if said["reason"] == "factory_reset" and said["judged"]["epoch"] == known.get("epoch"):
                    known["token"] = None  # this binding is over; `bind` begins the next epoch

class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body="", kind="application/json"):
        self.send_response(status)  # and the Date that the contract asks for
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def camera(self):  # the camera in the path, and what is known of it if the client's certificate is its own
        name, subject = self.path.split("/")[3], self.connection.getpeercert()["subject"]
        return name, cloud.cameras.get(name, {}) if (("commonName", name),) in subject else {}

    def do_GET(self):
        token = cloud.keyset if self.path == "/v1/keyset" else self.camera()[1].get("token")
        self.answer(200 if token else 404, token or "", "text/plain")

    def do_POST(self):
        (name, known), clip = self.camera(), json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        file = cloud.data / "clips" / name / str(uuid.UUID(clip["clip"]))
        if not (known.get("token") and known["epoch"] == clip["epoch"] and known["policy"]["clips"]):
            return self.answer(403)
        if file.exists():
            return self.answer(200, '{"stored": true}')
        secret, expires = secrets.token_urlsafe(), time.time() + 60
        cloud.grants[secret] = (file, clip, expires)
        grant = {"method": "PUT", "url": f"https://{self.headers['Host']}/store/{secret}", "headers": {},
                 "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))}
        self.answer(201, json.dumps(grant))

    def do_PUT(self):
        file, clip, expires = cloud.grants.pop(self.path.split("/")[-1], (None, None, 0))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if time.time() > expires or hashlib.sha256(data).hexdigest() != clip["sha256"]:
            return self.answer(403)
        file.parent.mkdir(exist_ok=True)
        write(file, data)
        print(file.parent.name, "stored", clip["kind"], file.name, len(data), flush=True)
        self.answer(200)

def main(broker, port, host, api_port, certificates):
    cloud.client = client = mqtt.Client(client_id="care-cloud:example", clean_session=False)
    client.on_connect, client.on_message = cloud.connected, cloud.heard
    client.tls_set(f"{certificates}/ca.pem", f"{certificates}/cloud.pem", f"{certificates}/cloud.key")
    client.connect(broker, int(port))
    client.loop_start()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{certificates}/ca.pem")
    tls.load_cert_chain(f"{certificates}/server.pem", f"{certificates}/server.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer((host, int(api_port)), Api)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    for task in (server.serve_forever, cloud.renew):
        threading.Thread(target=task, daemon=True).start()
    plans = {"premium": ("premium", PREMIUM, "subscribed"), "cancel": ("free", FREE, "cancelled")}
    for command, camera, *account in map(str.split, sys.stdin):
        with cloud.lock:
            cloud.bind(camera, *account) if command == "bind" else cloud.issue(camera, *plans[command])

if __name__ == "__main__":
    os.umask(0o077)  # the keys are for nobody else
    cloud = Cloud(sys.argv[1])
    main(*sys.argv[2:])
