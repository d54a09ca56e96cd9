//! The packaged agent on a whole emulated camera: real systemd, real kernel, its own disks, the cloud on this machine. Run by
//! `scripts/arm/whole-camera.sh`, which makes the image and names it; a boot takes twenty seconds, so that each test asks as much of it
//! as it can.

mod care_cloud;
mod daily;
mod hardship;
mod marks;
