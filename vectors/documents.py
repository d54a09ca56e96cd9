"""Reads entitlements and keysets as docs/protocol.md says, and refuses everything else with its reason code."""
import base64
import hashlib
import json
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ANY, SOME, LIMIT = (0, 2**53 - 1), (1, 2**53 - 1), (0, 2**31 - 1)
POLICY = dict(clips=bool, history_h=LIMIT, clip_max_s=LIMIT, cooldown_s=LIMIT, max_height=LIMIT, snapshots=bool)
REASON = set("subscribed upgraded downgraded cancelled renewed trial_started trial_ended payment_failed".split()
             + "payment_recovered refunded seat_limit bound unbound".split())
PLAN = {"plan": re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,64}"), "policy": POLICY, "reason": REASON}
REFUND = {"kind": {"refund", "credit"}, "amount_minor": ANY, "currency": str}
# What each field holds: a type, a range, a set of strings, or a pattern. A "?" marks what may be absent.
ENTITLEMENT = {"iss": str, "aud": str, "account": str, "epoch": SOME, "seq": SOME, "iat": ANY, "crit": [str], **PLAN,
               "channel": {"portal", "app_store", "play_store"}, "lease": {"max_age_s": SOME, "not_after": ANY},
               "next?": {"effective_at": ANY, **PLAN}, "order?": {"id": str, "refund": REFUND}}
KEYSET = {"iss": str, "version": SOME, "iat": ANY, "keys": [{"kid": str, "x": str, "not_before": ANY}], "revoked": [str],
          "resets": [{"id": SOME, "aud": str, "epoch": ANY, "seq": ANY, "time?": ANY}]}

class Reject(ValueError):
    """The reason code. Any other ValueError means `bad_form`."""

def need(holds, code="bad_form"):
    if not holds:
        raise Reject(code)

def check(value, spec):
    kind = type(spec)
    need(type(value) is {tuple: int, set: str, re.Pattern: str, dict: dict, list: list}.get(kind, spec))
    for name in spec if kind is dict else ():
        if name.strip("?") in value or need("?" in name):
            check(value[name.strip("?")], spec[name])
    for item in value if kind is list else ():
        check(item, spec[0])
    inside = {tuple: lambda: spec[0] <= value <= spec[1], set: lambda: value in spec, re.Pattern: lambda: spec.fullmatch(value)}
    need(kind not in inside or inside[kind](), "out_of_range")

def strict(data):
    unique = lambda pairs: need(len(dict(pairs)) == len(pairs)) or dict(pairs)
    inner = lambda value: value.values() if type(value) is dict else value if type(value) is list else None
    depth = lambda value: 0 if inner(value) is None else 1 + max(map(depth, inner(value)), default=0)
    value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=lambda name: need(not name))
    json.dumps(value, ensure_ascii=False).encode()  # fails on half a surrogate pair
    return need(type(value) is dict and depth(value) <= 8) or value

def unbase64(text):
    raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    return need(base64.urlsafe_b64encode(raw).strip(b"=") == text) or raw

def opened(token, typ, limit, key_of):
    """The payload, its digest and the key's name; `key_of` gives the public key of a name."""
    need(len(token) <= limit, "too_large")
    header, payload, signature = map(unbase64, token.split(b"."))
    try:
        header = strict(header)
    except ValueError:
        raise Reject("bad_header") from None
    need(header.keys() == {"alg", "kid", "typ"} and header["alg"] in ("EdDSA", "Ed25519"), "bad_header")
    need(header["typ"] == typ and type(header["kid"]) is str, "bad_header")
    key = Ed25519PublicKey.from_public_bytes(unbase64(key_of(header["kid"]).encode()))
    try:
        key.verify(signature, token.rpartition(b".")[0])
    except InvalidSignature:
        raise Reject("bad_signature") from None
    return strict(payload), "sha256:" + hashlib.sha256(payload).hexdigest(), header["kid"]

def keyset(token, roots, issuer):
    said, _, _ = opened(token, "care-keyset+jws", 65536, lambda kid: need(kid in roots, "unknown_key") or roots[kid])
    check(said, KEYSET)
    said["by_kid"] = {key["kid"]: need(len(unbase64(key["x"].encode())) == 32) or key for key in said["keys"]}
    need(len(said["by_kid"]) == len(said["keys"]))
    return need(said["iss"] == issuer, "wrong_issuer") or said

def entitlement(token, keys, issuer, device):
    """`keys` is a keyset as read above, or None. What the document says, with its position and digest as `id`."""
    def key_of(kid):
        need(keys is None or kid not in keys["revoked"], "revoked_key")
        return need(keys is not None and kid in keys["by_kid"], "unknown_key") or keys["by_kid"][kid]["x"]
    said, digest, kid = opened(token, "care-entitlement+jws", 8192, key_of)
    check(said, {"iss": str, "aud": str})
    need(said["iss"] == issuer, "wrong_issuer")
    need(said["aud"] == device, "wrong_audience")
    check(said, ENTITLEMENT)
    for part in (said, said.get("next", said)):
        need(part["reason"] != "unbound" or not (part["policy"]["clips"] or part["policy"]["snapshots"]), "out_of_range")
    need(said["iat"] >= keys["by_kid"][kid]["not_before"], "key_not_yet_valid")
    need({*said["crit"]} <= {name.strip("?") for name in ENTITLEMENT}, "unsupported")
    return {**said, "id": ((said["epoch"], said["seq"]), digest)}
