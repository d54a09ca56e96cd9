//! The firmware's tarball on a bare camera: BusyBox instead of systemd, no glibc, no GStreamer, 26 to 46 MB for Linux, the
//! cloud on this machine. `scripts/bare-camera.sh` builds the image and runs this. A boot takes ten seconds and more, so
//! each test checks as much as it can.

mod cards;
mod daily;
mod hardship;
