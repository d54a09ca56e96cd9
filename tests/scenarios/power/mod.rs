//! Power cuts, restarts and failing flash.

mod flash_faults;
mod flash_wear;
mod power_cuts;
mod restart;
mod timeline;
