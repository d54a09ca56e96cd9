//! The rest of the camera: live view, SD card, motion, real streams, the unit. The switch must not disturb any of it.

mod card;
mod local_branches;
mod missing_parts;
mod real_sources;
mod rtsp;
mod systemd_unit;
mod undecodable_picture;
