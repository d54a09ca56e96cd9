#!/usr/bin/env python3
"""A sample uploader for vendors that keep their own (docs/vendor-uploader.md): the agent tells it what it may send. It is
one loop in which nothing blocks.

Clips are files EPOCH-START-SECONDS-HEIGHT.mp4 (START in Unix seconds). It sends each with one PUT, oldest first.

    uploader.py AGENT-SOCKET STORE-HOST:PORT CLIP-DIRECTORY
"""
import glob
import json
import os
import select
import socket
import struct
import sys
import time

CHUNK = 16 * 1024


def boot_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Uploader:
    def __init__(self, agent, store, directory):
        self.where, self.store, self.directory = agent, store.rsplit(":", 1), directory
        self.agent, self.heard = None, b""
        self.order = None  # the newest `open`; None: closed
        self.clock = (0, 0)  # trusted time of the last line, and BOOTTIME when it came
        self.last_end = 0  # when the newest clip that was stored ended: the cooldown counts from there
        self.transfer, self.clip, self.body, self.answer = None, None, b"", b""
        self.refused_until = 0

    def allowed(self, policy, epoch):
        """The clips that the policy allows, oldest first, and those that it forbids."""
        now = self.clock[0] + (boot_ms() - self.clock[1]) // 1000
        good, bad, last_end = [], [], self.last_end
        names = (os.path.basename(path)[:-4].split("-") for path in glob.glob(self.directory + "/*.mp4"))
        for start, of, seconds, height in sorted((int(s), int(e), int(d), int(h)) for e, s, d, h in names):
            young = policy["history_h"] > 0 and now - start <= policy["history_h"] * 3600
            cooled = policy["cooldown_s"] == 0 or start >= last_end + policy["cooldown_s"]
            small = seconds <= policy["clip_max_s"] and height <= policy["max_height"]
            clip = (start + seconds, f"{self.directory}/{of}-{start}-{seconds}-{height}.mp4")
            if of == epoch and policy["clips"] and young and cooled and small:
                last_end = start + seconds
                good.append(clip)
            else:
                bad.append(clip)
        return good, bad

    def permitted(self):
        return self.order is not None and boot_ms() < self.order["until_boot_ms"]

    def abort(self):
        """Ends the transfer so that the kernel sends nothing more of it. Returns how many transfers it ended."""
        if self.transfer is None:
            return 0
        self.transfer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transfer.close()
        self.transfer = None
        return 1

    def hear(self, line):
        order = json.loads(line)
        if order["type"] == "busy":
            return
        self.clock = (order["time"], boot_ms())
        if order["type"] == "open":
            self.order = order
            return
        # Stop sending first: erasing can take a while.
        self.order, self.refused_until = None, 0
        transfers, clips, size = self.abort(), 0, 0
        if "keep" in order:
            try:
                for _, path in self.allowed(order["keep"], order["epoch"])[1]:
                    clips, size = clips + 1, size + os.path.getsize(path)
                    self.erase(path)
                if clips:
                    self.sync_directory()
            except OSError as error:
                # A clip may reappear after a power cut, so do not answer: the agent repeats its order on the next connection.
                print(f"cannot erase a forbidden clip: {error}", file=sys.stderr)
                self.hang_up()
                return
        erased = {"clips": clips, "bytes": size}
        self.say({"type": "closed", "generation": order["generation"], "transfers": transfers, "erased": erased})

    def erase(self, path):
        """Erases a clip for good: its content first, so that a power cut that restores its name does not restore the clip. The
        caller syncs the directory once for all of them."""
        with open(path, "wb") as file:
            os.fsync(file.fileno())
        os.unlink(path)

    def sync_directory(self):
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def hang_up(self):
        """Without the agent nothing may leave."""
        self.agent.close()
        self.agent, self.heard, self.order = None, b"", None

    def say(self, what):
        try:
            self.agent.sendall(json.dumps(what).encode() + b"\n")
        except OSError:
            pass  # The agent is gone; the next read reports that too.

    def listen(self):
        try:
            piece = self.agent.recv(4096)
        except OSError:
            piece = b""
        if not piece:
            self.hang_up()
            return
        *lines, self.heard = (self.heard + piece).split(b"\n")
        for line in lines:
            if self.agent is not None:
                self.hear(line)

    def begin(self):
        """Starts sending the oldest clip that may leave, if there is one."""
        good, _ = self.allowed(self.order["leave"], self.order["epoch"])
        if not good or boot_ms() < self.refused_until:
            return
        self.clip = good[0]
        with open(self.clip[1], "rb") as file:
            content = file.read()
        head = f"PUT /{os.path.basename(self.clip[1])} HTTP/1.1\r\nHost: store\r\nContent-Length: {len(content)}\r\n\r\n"
        self.body, self.answer = head.encode() + content, b""
        self.transfer = socket.socket()
        self.transfer.setblocking(False)
        self.transfer.connect_ex((self.store[0], int(self.store[1])))

    def send(self):
        try:
            if self.body:
                self.body = self.body[self.transfer.send(self.body[:CHUNK]) :]
                return
            self.answer += self.transfer.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            time.sleep(0.2)
            return
        status = int(self.answer.split(b" ")[1]) if b"\r\n" in self.answer else 0
        if status == 200:
            size = os.path.getsize(self.clip[1])
            # Erase it before telling the agent: after a power cut it must not be sent and counted again.
            os.unlink(self.clip[1])
            self.sync_directory()
            self.last_end = self.clip[0]
            self.say({"type": "stored", "bytes": size})
        elif status in (402, 403):
            self.refused_until = boot_ms() + 900_000
            self.say({"type": "refused", "status": status})
        self.abort()

    def run(self):
        while True:
            if self.agent is None:
                self.agent = socket.socket(socket.AF_UNIX)
                if self.agent.connect_ex(self.where):
                    self.agent.close()
                    self.agent = None
            if not self.permitted():
                self.abort()
            elif self.transfer is None and self.agent is not None:
                self.begin()
            reads = [s for s in (self.agent, self.transfer if not self.body else None) if s is not None]
            writes = [self.transfer] if self.transfer is not None and self.body else []
            readable, writable, _ = select.select(reads, writes, [], 0.2)
            # Read the agent first: it may forbid what would be sent next.
            if self.agent in readable:
                self.listen()
            if self.transfer is not None and self.permitted() and (self.transfer in writable or self.transfer in readable):
                self.send()


if __name__ == "__main__":
    Uploader(*sys.argv[1:]).run()
