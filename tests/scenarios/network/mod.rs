//! Brokers, networks and an API that fail, lose, delay or say nothing.

mod addresses;
mod brokers;
mod cluster;
mod deaf_connections;
mod device_advisor;
mod faulty_wires;
mod name_servers;
mod outages;
mod path_mtu;
