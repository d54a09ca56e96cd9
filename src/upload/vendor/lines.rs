//! The messages on the socket between the agent and a vendor's uploader: one JSON object a line
//! (docs/vendor-uploader.md). The uploader's numbers are bounded here, so that the agent's sums cannot overflow.

use care_protocol::{Erased, Mode, Policy};
use serde::{Deserialize, Serialize};

/// A longer line ends the connection.
pub(super) const LONGEST_LINE: usize = 1024;
/// The largest number of clips: more than any camera has, small enough that sums cannot overflow.
pub(super) const MOST_CLIPS: u32 = 1_000_000;
pub(super) const MOST_BYTES: u64 = 1 << 50;

/// A message from the agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Order {
    /// Stop every transfer; then erase what `judge` does not allow, and answer `closed`.
    Close {
        generation: u64,
        /// Trusted time, Unix seconds.
        time: u64,
        /// Absent: nothing is erased.
        #[serde(flatten)]
        judge: Option<Judge>,
    },
    /// What may be recorded and may leave, until CLOCK_BOOTTIME reaches this many milliseconds.
    Open { generation: u64, time: u64, mode: Mode, epoch: u64, seq: u64, record: Policy, keep: Policy, leave: Policy, until_boot_ms: u64 },
    /// Another uploader is connected.
    Busy,
}

/// What may be kept, and of which owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Judge {
    pub(super) epoch: u64,
    pub(super) keep: Policy,
}

impl Order {
    /// The line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("plain data");
        line.push(b'\n');
        line
    }
}

/// Splits received bytes into lines. Holds no more than one line.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    line: Vec<u8>,
}

impl Cutter {
    /// Takes a received piece, and passes each line that ends in it to `receive`, without its line end.
    ///
    /// # Errors
    /// A line is too long, or `receive` refuses one: the rest of the piece is ignored, and no other piece may follow.
    pub(super) fn take(&mut self, piece: &[u8], mut receive: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        for &byte in piece {
            match byte {
                b'\n' => {
                    receive(&self.line)?;
                    self.line.clear();
                }
                _ if self.line.len() == LONGEST_LINE => return Err(format!("a line longer than {LONGEST_LINE} bytes")),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// Its memory, bytes.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn holds(&self) -> usize {
        self.line.capacity()
    }
}

/// A message from the uploader.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(any(test, feature = "fuzzing"), derive(Serialize))]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum UploaderMessage {
    /// It has stopped, and no clip that the last `close` forbids will ever leave.
    Closed {
        /// Which `close` this answers.
        generation: u64,
        /// Transfers that were in flight.
        #[serde(default)]
        transfers: u32,
        /// Payload that left after it had read the `close`, as it measured.
        #[serde(default)]
        bytes_after: u64,
        /// Clips that were forbidden.
        #[serde(default)]
        erased: Erased,
    },
    /// A clip is stored.
    Stored {
        /// Its size.
        bytes: u64,
    },
    /// The cloud refused a grant.
    Refused {
        /// 402 or 403.
        status: u16,
    },
}

impl UploaderMessage {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// A description of the fault.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        let message = serde_json::from_slice(line).map_err(|error| format!("a line that cannot be parsed: {error}"))?;
        let possible = match &message {
            Self::Closed { transfers, bytes_after, erased, .. } => {
                *transfers <= MOST_CLIPS && erased.clips <= MOST_CLIPS && *bytes_after.max(&erased.bytes) <= MOST_BYTES
            }
            Self::Stored { bytes } => *bytes <= MOST_BYTES,
            Self::Refused { status } => matches!(status, 402 | 403),
        };
        if possible { Ok(message) } else { Err(format!("an impossible number: {message:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };

    /// Other programs read this; docs/vendor-uploader.md shows the same lines.
    #[test]
    fn orders_are_written_to_the_letter() {
        let policy = r#"{"clips":true,"history_h":12,"clip_max_s":12,"cooldown_s":300,"max_height":720,"snapshots":false}"#;
        let line = |order: Order| String::from_utf8(order.line()).unwrap();
        assert_eq!(
            line(Order::Close { generation: 8, time: 1_767_225_600, judge: Some(Judge { epoch: 3, keep: KEEP }) }),
            format!("{{\"type\":\"close\",\"generation\":8,\"time\":1767225600,\"epoch\":3,\"keep\":{policy}}}\n")
        );
        assert_eq!(
            line(Order::Close { generation: 8, time: 1_767_225_600, judge: None }),
            "{\"type\":\"close\",\"generation\":8,\"time\":1767225600}\n"
        );
        let open = Order::Open {
            generation: 8,
            time: 1_767_225_600,
            mode: Mode::Free,
            epoch: 3,
            seq: 41,
            record: KEEP,
            keep: KEEP,
            leave: KEEP,
            until_boot_ms: 86_405_000,
        };
        assert_eq!(
            line(open),
            format!(
                "{{\"type\":\"open\",\"generation\":8,\"time\":1767225600,\"mode\":\"free\",\"epoch\":3,\"seq\":41,\"record\":{policy},\
                 \"keep\":{policy},\"leave\":{policy},\"until_boot_ms\":86405000}}\n"
            )
        );
        assert_eq!(line(Order::Busy), "{\"type\":\"busy\"}\n");
    }

    #[test]
    fn what_an_uploader_says_is_read_and_bounded() {
        let whole = br#"{"type":"closed","generation":8,"transfers":1,"bytes_after":0,"erased":{"clips":3,"bytes":5242880},"more":null}"#;
        let erased = Erased { clips: 3, bytes: 5_242_880 };
        assert_eq!(UploaderMessage::read(whole), Ok(UploaderMessage::Closed { generation: 8, transfers: 1, bytes_after: 0, erased }));
        let least = UploaderMessage::Closed { generation: 8, transfers: 0, bytes_after: 0, erased: Erased::default() };
        assert_eq!(UploaderMessage::read(br#"{"type":"closed","generation":8}"#), Ok(least));
        assert_eq!(UploaderMessage::read(br#"{"type":"stored","bytes":7}"#), Ok(UploaderMessage::Stored { bytes: 7 }));
        assert_eq!(UploaderMessage::read(br#"{"type":"refused","status":402}"#), Ok(UploaderMessage::Refused { status: 402 }));
        for line in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"type":"open","generation":1}"#,
            r#"{"type":"closed"}"#,
            r#"{"type":"closed","generation":-1}"#,
            r#"{"type":"closed","generation":1.5}"#,
            r#"{"type":"closed","generation":1,"generation":2}"#,
            r#"{"type":"closed","generation":1,"transfers":4294967295}"#,
            r#"{"type":"closed","generation":1,"erased":{"clips":4294967295,"bytes":0}}"#,
            r#"{"type":"closed","generation":1,"erased":{"clips":0,"bytes":18446744073709551615}}"#,
            r#"{"type":"stored","bytes":18446744073709551615}"#,
            r#"{"type":"refused","status":200}"#,
        ] {
            assert!(UploaderMessage::read(line.as_bytes()).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in prop::collection::vec(any::<u8>(), 0..LONGEST_LINE), text in "[{}\":a-z0-9,\\[\\]]{0,200}") {
            let _ = UploaderMessage::read(&line);
            let _ = UploaderMessage::read(text.as_bytes());
        }
    }
}
