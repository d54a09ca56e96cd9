"""A camera of vectors/histories.json: what it remembers and does, as documents, time and resets decide it."""
from documents import Reject, entitlement, keyset, need

class Device:
    def __init__(self, facts):
        self.facts, self.boot = facts, 0
        self.forget()
        self.lost = False

    def forget(self):
        self.force, self.keys, self.ratchet, self.reset_id = None, None, ((0, 0), None), 0
        self.lost, self.was_reset = True, False
        self.offset = self.facts["built"] - self.boot
        self.restart()

    def restart(self):
        self.vouched, self.dated, self.dispute, self.waiting = False, None, None, None

    def time(self):
        return self.boot + self.offset

    def set_time(self, time):
        back, self.offset = self.time() - time, time - self.boot
        if self.force and back > 600:  # it was not as old at receipt as it seemed
            self.force["late"] = max(0, self.force["late"] - back)

    def date(self, date):
        far = date > self.time() + 86400 or date < self.time() - 600
        if far and not (self.dispute and abs(self.dispute[0] + self.boot - date) <= 600):
            self.dispute = (date - self.boot, self.boot)
        if far and self.boot < self.dispute[1] + 60:
            return
        self.dispute = None
        self.set_time(max(date, min(self.time(), date + 1), self.facts["built"]))
        self.dated = self.offset

    def keyset(self, token, until):
        said = keyset(token, self.facts["roots"], self.facts["issuer"])
        resets = [reset for reset in said["resets"] if reset["aud"] == self.facts["device"] and reset["id"] > self.reset_id]
        need(max([said["iat"]] + [reset.get("time", 0) for reset in resets]) <= until, "out_of_range")
        known = self.keys["version"] if self.keys else 0
        need(said["version"] >= max(known, self.facts["min_keyset_version"]), "old_keyset")
        if said["version"] == known:
            return "known"
        self.keys = said
        self.set_time(max(self.time(), said["iat"]))
        for reset in sorted(resets, key=lambda reset: reset["id"]):
            self.reset_id = reset["id"]
            if not self.lost and (reset["epoch"], reset["seq"]) < self.ratchet[0]:
                self.ratchet = ((reset["epoch"], reset["seq"]), None)
            if not self.lost and "time" in reset:
                self.set_time(max(reset["time"], self.facts["built"]))
        return self.document(*self.waiting[0]) if self.waiting else "taken"

    def document(self, token, until, via):
        self.waiting = None
        need(via == "https" or not self.lost, "state_lost")
        try:
            said = entitlement(token, self.keys, self.facts["issuer"], self.facts["device"])
        except Reject as reject:
            self.waiting = ((token, until, via), self.boot) if str(reject) == "unknown_key" else None
            return "waits" if self.waiting else need(False, str(reject))
        need(said["iat"] <= until, "out_of_range")
        need(not self.was_reset or said["epoch"] != self.ratchet[0][0], "factory_reset")
        known = said["id"] in (self.ratchet, self.force and self.force["id"])
        if not known:
            self.set_time(max(self.time(), said["iat"]))
            if not self.lost and said["id"][0] <= self.ratchet[0]:
                return "conflict" if said["id"][0] == self.ratchet[0] and self.ratchet[1] else "stale"
            same = self.force and self.force["epoch"] == said["epoch"]
            need(not same or self.force["account"] == said["account"], "account_changed")
            self.force = {**said, "since": self.boot, "late": max(0, self.time() - said["iat"])}
            self.ratchet, self.lost, self.was_reset = said["id"], False, False
        self.vouched |= via != "live"
        return "duplicate" if known else "applied"

    def step(self, step):
        """One step of a history; what it says of the document or keyset in it."""
        does, until = step["do"], step.get("valid_until", 253402300799)
        if does == "document":
            return self.document(step["token"].encode(), until, step["via"])
        if does == "keyset":
            return self.keyset(step["token"].encode(), until)
        if does == "date":
            return self.date(step["date"])
        if does == "wait":
            self.boot += step["seconds"]
            if self.waiting and self.boot >= self.waiting[1] + 30:
                self.waiting = None
                raise Reject("unknown_key")
        elif does == "lose_state":
            self.forget()
        else:
            self.restart()
            if does == "factory_reset":
                self.force, self.was_reset = None, True

    def policy(self):
        """What is in force: plan, reason and policy, those of `next` once it has taken effect."""
        change = self.force.get("next")
        self.force["changed"] = self.force.get("changed") or change and self.time() >= change["effective_at"]
        return {**self.force, **change} if self.force["changed"] else self.force

    def then(self):
        """What the vectors say of the device after each step."""
        seen = dict(ratchet=list(self.ratchet[0]), keyset=self.keys["version"] if self.keys else 0, time=self.time())
        if not self.force:
            return dict(seen, in_force=[0, 0], plan=None, mode="unbound", leaves="nothing")
        now, lease, used = self.policy(), self.force["lease"], self.boot - self.force["since"] + self.force["late"]
        over = used >= lease["max_age_s"] or self.time() >= lease["not_after"]
        confirmed = self.dated is not None and abs(self.dated - self.offset) <= 600
        held = not self.vouched or ("next" in now and not self.force["changed"] and not confirmed)
        mode = "free" if now["plan"] == "free" or over else "held" if held else "paid"
        policies = self.facts["policies"]
        floor = {name: (max if name == "cooldown_s" else min)(limit, policies["free"][name]) for name, limit in now["policy"].items()}
        leaves = floor if over or held else now["policy"]
        named = [name for name, policy in policies.items() if policy == leaves] if leaves["clips"] or leaves["snapshots"] else ["nothing"]
        return dict(seen, in_force=list(self.force["id"][0]), plan=now["plan"], leaves=named[0],
                    mode="unbound" if now["reason"] == "unbound" else mode)
