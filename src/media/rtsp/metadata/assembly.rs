//! Puts XML documents together from the packets of a metadata stream: the marker bit ends a document (ONVIF Streaming Specification,
//! *RTP usage*). Where a camera never sets it, the end of the document's root element does. Pure. Called by `metadata`.

use bytes::{Bytes, BytesMut};

use crate::media::{motion::onvif::LONGEST_DOCUMENT, rtsp::packet::Rtp};

/// The root element. Old cameras write `MetaDataStream`.
const ROOT: &[u8] = b"MetadataStream";
/// So far from its edges a document's root element is looked for, bytes: prefixes are short.
const EDGE: usize = 64;

/// What a packet has completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Completed {
    pub document: Option<Bytes>,
    /// A document cannot be had: a part of it is missing, or it is too long.
    pub lost: bool,
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    document: BytesMut,
    /// The document under way cannot be had, and is passed over up to its end.
    broken: bool,
}

impl Assembly {
    /// Takes the next packet, before which so many are missing.
    pub fn take(&mut self, rtp: &Rtp, missing: u16) -> Completed {
        let mut completed = Completed::default();
        if missing > 0 {
            let was_under_way = self.broken || !self.document.is_empty();
            self.document.clear();
            self.broken = !begins(&rtp.payload);
            completed.lost = was_under_way && !self.broken;
        }
        if rtp.payload.len() > LONGEST_DOCUMENT - self.document.len() {
            self.broken = true;
        }
        if self.broken {
            // It has no use any more.
            self.document.clear();
        } else {
            self.document.extend_from_slice(&rtp.payload);
        }
        let end: &[u8] = if self.broken { &rtp.payload } else { &self.document };
        if !rtp.mark && !ends(end) {
            return completed;
        }
        completed.lost |= std::mem::take(&mut self.broken);
        let document = self.document.split().freeze();
        let text = trimmed(&document);
        completed.document = (!text.is_empty()).then(|| document.slice_ref(text));
        completed
    }
}

/// Whether a document begins here: with an XML declaration or its root element.
fn begins(payload: &[u8]) -> bool {
    let start = payload.trim_ascii_start();
    start.starts_with(b"<?xml") || (start.starts_with(b"<") && contains(&start[..start.len().min(EDGE)], ROOT))
}

/// Whether the root element ends here.
fn ends(document: &[u8]) -> bool {
    let end = trimmed(document);
    let Some(last) = end[end.len().saturating_sub(EDGE)..].rsplit(|byte| *byte == b'<').next() else { return false };
    last.starts_with(b"/") && last.ends_with(b">") && contains(last, ROOT)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// Without blanks, and the zeroes with which some cameras end a text.
fn trimmed(document: &[u8]) -> &[u8] {
    let end = document.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    document[..end].trim_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::rtsp::sequence::Sequence;

    fn packet(sequence: u16, mark: bool, payload: &[u8]) -> Rtp {
        Rtp { payload_type: 107, mark, sequence, timestamp: 0, source: 7, payload: Bytes::copy_from_slice(payload) }
    }

    /// The documents that these packets make, and how many are lost.
    fn made(packets: &[(u16, bool, &[u8])]) -> (Vec<String>, usize) {
        let (mut assembly, mut order) = (Assembly::default(), Sequence::default());
        let (mut documents, mut lost) = (Vec::new(), 0);
        for (sequence, mark, payload) in packets {
            let Some(missing) = order.take(7, *sequence) else { continue };
            let completed = assembly.take(&packet(*sequence, *mark, payload), missing);
            documents.extend(completed.document.map(|document| String::from_utf8_lossy(&document).into_owned()));
            lost += usize::from(completed.lost);
        }
        (documents, lost)
    }

    #[test]
    fn the_marker_ends_a_document_however_many_packets_it_takes() {
        let (documents, lost) =
            made(&[(1, true, b"<a/>"), (2, false, b"<b>"), (3, false, b" "), (4, true, b"</b>\r\n\0"), (5, true, b""), (6, true, b"<c/>")]);
        assert_eq!((documents, lost), (vec!["<a/>".into(), "<b> </b>".into(), "<c/>".into()], 0));
    }

    #[test]
    fn without_markers_the_end_of_the_root_element_ends_it() {
        let (documents, lost) = made(&[
            (1, false, b"<tt:MetaDataStream><x>"),
            (2, false, b"</x></tt:MetaData"),
            (3, false, b"Stream >\n"),
            (4, false, b"<MetadataStream></MetadataStream>"),
        ]);
        assert_eq!(documents, ["<tt:MetaDataStream><x></x></tt:MetaDataStream >", "<MetadataStream></MetadataStream>"]);
        assert_eq!(lost, 0);
    }

    #[test]
    fn a_document_with_a_part_missing_is_lost_and_the_next_one_is_not() {
        let root: &[u8] = b"<?xml version='1.0'?>";
        assert_eq!(made(&[(1, false, b"<a>"), (3, true, b"</a>"), (4, true, b"<b/>")]), (vec!["<b/>".into()], 1));
        assert_eq!(made(&[(1, false, b"<a>"), (3, true, root)]).1, 1, "the end of the first one is missing");
        assert_eq!(made(&[(1, true, b"<a/>"), (3, true, root)]), (vec!["<a/>".into(), "<?xml version='1.0'?>".into()], 0));
        assert_eq!(made(&[(1, false, b"<a>"), (2, false, b"<b>"), (9, false, b"c"), (10, true, b"d")]), (vec![], 1));
        assert_eq!(made(&[(1, true, b"<a/>"), (1, true, b"<a/>")]).0, ["<a/>"], "sent twice");
    }

    #[test]
    fn a_document_that_is_too_long_is_lost_as_a_whole() {
        let piece = vec![b' '; LONGEST_DOCUMENT / 2];
        let (documents, lost) =
            made(&[(1, false, &piece), (2, false, &piece), (3, false, b"x"), (4, false, &piece), (5, true, b"</a>"), (6, true, b"<b/>")]);
        assert_eq!((documents, lost), (vec!["<b/>".into()], 1));
        assert_eq!(made(&[(1, true, &vec![b'x'; LONGEST_DOCUMENT + 1]), (2, true, b"<b/>")]), (vec!["<b/>".into()], 1));
        assert_eq!(made(&[(1, true, &vec![b'x'; LONGEST_DOCUMENT])]).0.len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_kept_beyond_the_bound(
            packets in prop::collection::vec((0_u16..3, any::<bool>(), 0_usize..40_000), 0..20),
            text in "(<|/|MetadataStream|>|x|\0| ){0,9}",
        ) {
            let mut assembly = Assembly::default();
            for (missing, mark, length) in packets {
                let payload = text.bytes().cycle().take(length).collect::<Vec<_>>();
                let completed = assembly.take(&packet(0, mark, &payload), missing);
                prop_assert!(completed.document.is_none_or(|document| document.len() <= LONGEST_DOCUMENT));
                prop_assert!(assembly.document.len() <= LONGEST_DOCUMENT);
            }
        }
    }
}
