//! The Care agent: switches a camera's cloud upload with its plan, at once.
//!
//! A pure engine in the middle, thin shells around it. The engine is the crate [`care_engine`], which knows no socket, file
//! or clock; the formats that it shares with the cloud are the crate [`care_protocol`].
//!
//! A signed document comes in through [`link`]. The engine judges it, and opens or closes the gate of [`upload`]. Frames come
//! out of [`media`] and meet the plan only at that gate. [`agent`] feeds events to the engine and carries out its effects, in
//! order.
//!
//! | module | task |
//! |---|---|
//! | [`cli`], [`config`] | the commands; the configuration file, parsed and checked |
//! | [`agent`] | the control thread: wiring, events, effects, reload, shutdown |
//! | [`link`] | MQTT: session, acknowledgements, outbox |
//! | [`upload`] | the gate, transfers, grants, the spool in memory and on flash |
//! | [`media`] | the camera: source, clips, motion, recording to the card |
//! | [`store`] | the record in two checksummed slots |
//! | [`tls`], [`http`], [`clock`] | TLS and HTTPS on trusted time |
//! | [`local_mqtt`] | tells Home Assistant, at a broker in the home |
//! | [`status`], [`timeline`], [`conditions`], [`logging`], [`redact`] | what people see, without secrets |
//! | [`confinement`] | gives up root, capabilities and files when the service starts |
//! | [`systemd`], [`supervision`] | readiness and watchdog, towards what runs the agent; `supervise`, where no systemd does |
//!
//! | thread | what runs on it |
//! |---|---|
//! | control | link, engine, cuts: nothing slow |
//! | store | `fdatasync`, which can take seconds on worn flash |
//! | uploads | grants and PUTs on its own runtime, or the socket of a vendor's uploader |
//! | flash | writes clips to flash and unlinks them |
//! | status | the status page |
//! | local-mqtt | the broker in the home |
//! | timeline | writes what happened, seldom |
//! | GStreamer's | capture, motion, clips |
#![deny(unsafe_code)]

pub mod agent;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod conditions;
pub mod config;
pub mod confinement;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hex;
pub mod http;
pub mod link;
pub mod local_mqtt;
pub mod logging;
pub mod media;
pub mod memory;
pub mod ownership;
mod path_mtu;
pub mod redact;
mod rejections;
mod resolver;
mod space;
pub mod status;
pub mod store;
pub mod supervision;
pub mod systemd;
#[cfg(test)]
mod test_pki;
pub mod text_file;
pub mod threads;
pub mod timeline;
pub mod tls;
pub mod unix_socket;
pub mod upload;
