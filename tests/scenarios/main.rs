//! The scenarios, one test each by number, in folders by subject. `docs/scenarios.md` lists them all and links each
//! to its tests.

mod camera;
mod catalogue;
mod clips;
mod harness;
mod network;
mod operation;
mod order;
mod ownership;
mod plans;
mod power;
mod small_camera;
mod time;
mod trust;
