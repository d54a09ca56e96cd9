//! A hostile uploader, for `fuzzing`: it sends the input in the middle of a cut, when its answer matters most. The
//! result is compared with a simple model of the same lines without sockets, orders and permissions.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use care_engine::{Admission, CutFigures, Generation, trusted_time::Readings};
use care_protocol::{Erased, Mode, Policy, Position};

use super::{
    Figures, PERMISSION, UploaderEvents, UploaderMessage, Vendor,
    lines::{Cutter, LONGEST_LINE, MOST_BYTES, MOST_CLIPS},
    session::PIECE,
};
use crate::{clock::Clock, fuzzing::Verdict};

const KEEP: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const AT: Position = Position { epoch: 3, seq: 41 };
/// The `close` that it has to answer; those from 0 on were sent before.
const CLOSE: Generation = Generation(2);
/// What the agent itself was doing at the cut.
const OWN: CutFigures = CutFigures { generation: CLOSE, transfers: 1, bytes_after: Some(1448), erased: Erased { clips: 2, bytes: 4096 } };

/// An uploader with permission receives `close`, sends these bytes and disconnects.
pub(crate) fn hostile_uploader(input: &[u8]) -> Verdict {
    let account = Account::of(input);
    // The kernel may deliver them in any pieces.
    for piece in [PIECE, 7] {
        converse(input, piece, &account);
    }
    Verdict::of(account.lines > 0 && !account.nonsense)
}

/// The expected result, computed from the lines alone.
#[derive(Debug, Default)]
struct Account {
    lines: u64,
    /// Whether a line ends the connection.
    nonsense: bool,
    stored: (u64, u64),
    erased: (u64, u64),
    refused: Option<u16>,
    /// The first answer to [`CLOSE`].
    answer: Option<Figures>,
}

impl Account {
    fn of(input: &[u8]) -> Self {
        let mut account = Self::default();
        let mut lines = input.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let ends = lines.peek().is_some();
            account.nonsense = line.len() > LONGEST_LINE || (ends && account.add(line).is_none());
            if account.nonsense {
                break;
            }
            account.lines += u64::from(ends);
        }
        account
    }

    fn add(&mut self, line: &[u8]) -> Option<()> {
        let message = UploaderMessage::read(line).ok()?;
        let again = serde_json::to_vec(&message).expect("plain data");
        assert_eq!(UploaderMessage::read(&again).as_ref(), Ok(&message), "a parsed message can be sent again");
        match message {
            UploaderMessage::Closed { generation, transfers, bytes_after, erased } => {
                assert!(transfers.max(erased.clips) <= MOST_CLIPS && bytes_after.max(erased.bytes) <= MOST_BYTES);
                if generation > CLOSE.0 {
                    return None;
                }
                self.erased.0 += u64::from(erased.clips);
                self.erased.1 += erased.bytes;
                if generation == CLOSE.0 {
                    self.answer.get_or_insert(Figures { transfers, bytes_after, erased });
                }
            }
            UploaderMessage::Stored { bytes } => {
                assert!(bytes <= MOST_BYTES);
                self.stored.0 += 1;
                self.stored.1 += bytes;
            }
            UploaderMessage::Refused { status } => {
                assert!(matches!(status, 402 | 403));
                self.refused = Some(status);
            }
        }
        Some(())
    }
}

fn converse(input: &[u8], piece: usize, account: &Account) {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let call = move |_| {
        called.fetch_add(1, Ordering::Relaxed);
    };
    let readings = Readings { boot: Duration::from_secs(100), system: Duration::ZERO };
    let (clock, dial) = Clock::dialled(Duration::from_secs(1_767_225_600), readings);
    let vendor = Vendor::new(clock, Box::new(call));
    let admission = Admission { record: KEEP, keep: KEEP, leave: KEEP, position: AT };
    vendor.open(admission);
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    assert!(vendor.connect(ours.into(), None));
    vendor.receive(br#"{"type":"closed","generation":0}"#).expect("an answer");
    vendor.renew(Mode::Paid);
    assert!(vendor.status().open);
    vendor.close(CLOSE, Some((KEEP, AT)));
    assert_eq!((vendor.uploader_events(), vendor.cut_figures(OWN)), (UploaderEvents::default(), None));
    calls.store(0, Ordering::Relaxed);

    let mut lines = Cutter::default();
    let received = input.chunks(piece).try_for_each(|piece| {
        let received = lines.take(piece, |line| vendor.receive(line));
        assert!(lines.holds() <= 2 * LONGEST_LINE, "{} bytes held", lines.holds());
        received
    });
    assert_eq!(received.is_err(), account.nonsense, "{received:?}");
    assert!(received.as_ref().err().is_none_or(|why| !why.is_empty()));

    assert_eq!(calls.load(Ordering::Relaxed), usize::from(account.lines > 0), "the control thread is called once until it comes");
    assert_eq!(vendor.uploader_events(), UploaderEvents { refused: account.refused, stored: account.stored.0 > 0 });
    let status = vendor.status();
    assert_eq!(((status.stored_clips, status.stored_bytes), (status.erased_clips, status.erased_bytes)), (account.stored, account.erased));
    assert_eq!(status.closed_generation, Some(if account.answer.is_some() { CLOSE.0 } else { 0 }));
    // Until it answers it may be sending.
    assert_eq!(status.open, account.answer.is_none());

    if let Err(why) = received {
        vendor.refuse(why);
    }
    // An answer ends the cut. An uploader that disconnects without one counts one transfer and is closed. One whose
    // lines break a rule still has its permission.
    let answered = account.answer.map(|figures| figures.and(OWN));
    let silent = Some(Figures { transfers: 1, ..Figures::default() }.and(OWN));
    assert_eq!(vendor.cut_figures(OWN), answered);
    vendor.open(admission);
    vendor.renew(Mode::Paid);
    if !account.nonsense {
        vendor.gone();
    } else if answered.is_none() {
        assert_eq!(vendor.cut_figures(OWN), None);
        dial.advance(PERMISSION);
    }
    assert_eq!(vendor.cut_figures(OWN), if answered.is_some() { Some(OWN) } else { silent });
    assert!(!vendor.status().connected && !vendor.status().open && vendor.status().fault.is_some());

    let mut told = String::new();
    theirs.read_to_string(&mut told).expect("whole lines");
    let told: Vec<_> = told.lines().map(|line| &line[..line.find(',').unwrap_or(line.len())]).collect();
    // Permission is renewed only for an uploader that has answered and broken no rule.
    let opened_again = usize::from(answered.is_some() && !account.nonsense);
    let expected = [r#"{"type":"close""#, r#"{"type":"open""#, r#"{"type":"close""#, r#"{"type":"open""#];
    assert_eq!(told, expected[..3 + opened_again]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the model itself: a line that the agent counts differently must be found.
    #[test]
    #[should_panic(expected = "assertion `left == right` failed")]
    fn what_is_not_in_the_account_is_found() {
        let account = Account::of(b"{\"type\":\"stored\",\"bytes\":8}\n");
        converse(b"{\"type\":\"stored\",\"bytes\":7}\n", PIECE, &account);
    }
}
