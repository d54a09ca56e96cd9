#!/usr/bin/python3
"""An RTSP camera for tests: GStreamer's own server, which nobody here wrote.

    rtsp_server.py [--port N] [--path /stream] [FILE.mp4 | --launch 'DESCRIPTION ending in pay0']

Without a file it serves a moving test picture, 640x360 at 15 fps, a keyframe every second. Port 0 lets the system choose.
Prints the URL on its first line, and ends when its standard input is closed, so that it never outlives a test.
Needs (Debian): python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
"""

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

MOVING = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=15/1 "
    "! openh264enc gop-size=15 ! h264parse ! rtph264pay name=pay0 pt=96"
)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("file", nargs="?")
    options.add_argument("--launch", default=MOVING)
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--path", default="/stream")
    options = options.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    launch = options.launch
    if options.file:
        launch = f'filesrc location="{options.file}" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96'
    factory.set_launch(f"( {launch} )")
    server.get_mount_points().add_factory(options.path, factory)
    if server.attach(None) == 0:
        sys.exit(f"cannot listen on port {options.port}")
    print(f"rtsp://127.0.0.1:{server.get_bound_port()}{options.path}", flush=True)

    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin.fileno(), GLib.PRIORITY_DEFAULT, GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    loop.run()


main()
