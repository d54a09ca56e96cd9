//! Forged documents, servers that must not be trusted, certificates, and secrets that must stay where they are.

mod camera_passwords;
mod certificates;
mod forgeries;
mod secrets;
mod trusted_files;
mod untrusted_servers;
