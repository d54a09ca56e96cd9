#!/usr/bin/env python3
"""Judges every vector, as another implementation of docs/protocol.md would. Needs Debian's python3-cryptography.

    run.py [DIRECTORY]      exit code 1, and a line for each, if a vector is not as its file says
"""
import json
import sys
from pathlib import Path

import documents
from device import Device


def judged(judge, *arguments):
    """The outcome, the reason of a rejection, and what was read."""
    try:
        return "accepted", None, judge(*arguments)
    except documents.Reject as reject:
        return "rejected", str(reject), None
    except ValueError:
        return "rejected", "bad_form", None


def token(case, file):
    keys = documents.keyset(file["keysets"][case["keyset"]].encode(), file["roots"], file["issuer"]) if case["keyset"] else None
    data = bytes.fromhex(case["hex"]) if "hex" in case else case["token"].encode()
    outcome, reason, said = judged(documents.entitlement, data, keys, file["issuer"], file["device"])
    facts = dict(zip(("epoch", "seq", "plan", "digest"), (*said["id"][0], said["plan"], said["id"][1]))) if said else {}
    return dict(facts, outcome=outcome, reason=reason)


def keyset(case, file):
    outcome, reason, said = judged(documents.keyset, case["token"].encode(), file["roots"], file["issuer"])
    usable = sorted(kid for kid in said["by_kid"] if kid not in said["revoked"]) if said else None
    return dict(outcome=outcome, reason=reason, version=said and said["version"], keys=usable)


def report(case, _):
    newest, said = case["newest"], case["report"]
    obeys = all(said[name] == newest[name] for name in newest)
    rejected, told = said["outcome"] == "rejected", {said["cause"], said["reason"]}
    then = ("alarm" if said["outcome"] == "conflict" else "rebind" if "factory_reset" in told else
            "restore" if "state_lost" in told else "correct" if rejected and said["reason"] != "not_persisted" else
            "nothing" if obeys else "wait")
    return {"meaning": {"obeys": obeys, "durable": said["persisted"], "then": then}}


def history(case, file):
    device, steps = Device(file), []
    for step in case["steps"]:
        outcome, reason, said = judged(device.step, step)
        verdict = dict(outcome=said if outcome == "accepted" else outcome, reason=reason)
        steps.append({**step, "then": {**{name: text for name, text in verdict.items() if text}, **device.then()}})
    return {"steps": steps}


def main(directory):
    differ = 0
    for name, judge in [("tokens", token), ("keysets", keyset), ("reports", report), ("histories", history)]:
        file = json.loads((directory / f"{name}.json").read_text())
        cases = file.get("cases") or file["histories"]
        for case in cases:
            found = {name: value for name, value in judge(case, file).items() if value is not None}
            expected = {name: case[name] for name in case if name in ("outcome", "reason", "meaning", "steps", *found)}
            if found != expected:
                differ += 1
                wrong = [(f, e) for f, e in zip(found.get("steps", [found]), expected.get("steps", [expected])) if f != e][0]
                print(f"{name}: {case['name']}\n  found    {wrong[0].get('then', wrong[0])}\n  expected {wrong[1].get('then', wrong[1])}")
        print(f"{name}: {len(cases)} judged")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
