//! Bytes as lowercase hexadecimal digits, as the API and digest logins write them.

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
