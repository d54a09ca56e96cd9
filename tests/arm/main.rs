//! The packaged agent on a whole emulated camera: real systemd, real kernel, its own disks, the cloud on this
//! machine. `scripts/arm/whole-camera.sh` builds the image and runs this. A boot takes twenty seconds, so each test
//! checks as much as it can.

mod care_cloud;
mod daily;
mod hardship;
mod marks;
