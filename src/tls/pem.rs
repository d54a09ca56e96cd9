//! Reads PEM (RFC 7468). It skips nothing silently: a parser that ignores what it does not understand may ignore the root that
//! somebody installed. Every section is read, or reported with its line and the reason.
//!
//! Beyond the standard it accepts a byte order mark before any line, text directly before a marker, CRLF and CR, and
//! indentation.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::text_file::{BYTE_ORDER_MARK, not_text};

/// Padding may be missing and trailing bits may have any value; other programs accept that too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true),
);

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One section of a file, readable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// The line of its start, from 1.
    pub line: usize,
    /// Its label, such as `CERTIFICATE`; empty if no marker could be read.
    pub label: String,
    /// Its decoded contents, or why they cannot be read.
    pub content: Result<Vec<u8>, String>,
}

/// Every section of a file, and everything that looks like a damaged one, in order.
///
/// # Errors
/// The file as a whole is not text: what it is instead.
pub(super) fn sections(bytes: &[u8]) -> Result<Vec<Section>, String> {
    // A DER SEQUENCE whose length takes one to four bytes, or is that of the rest.
    if matches!(bytes, [0x30, 0x81..=0x84, ..]) || matches!(bytes, [0x30, length, rest @ ..] if usize::from(*length) == rest.len()) {
        return Err("it is DER (binary), not PEM: convert it with openssl".to_owned());
    }
    if let Some(what) = not_text(bytes) {
        return Err(what.to_owned());
    }
    // Comments may be in any encoding.
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = Reader { text: &text, at: 0, found: Vec::new(), counted: (0, 1) };
    reader.read();
    Ok(reader.found)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    found: Vec<Section>,
    /// The offset up to which lines were counted, and its line.
    counted: (usize, usize),
}

impl<'t> Reader<'t> {
    fn read(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let Some(begin) = rest.find(BEGIN) else {
                self.check_between(self.at, self.text.len());
                return;
            };
            let begin = self.at + begin;
            let line_start = self.text[..begin].rfind('\n').map_or(0, |at| at + 1).max(self.at);
            if self.text[line_start..begin].trim_start_matches([' ', '\t', BYTE_ORDER_MARK]).starts_with('#') {
                // Commented out. If its body is not, the body is reported.
                let next = self.text[begin..].find('\n').map_or(self.text.len(), |end| begin + end + 1);
                self.check_between(self.at, line_start);
                self.at = next;
                continue;
            }
            self.check_between(self.at, begin);
            self.section(begin);
        }
    }

    /// Reads the section that begins at `begin`.
    fn section(&mut self, begin: usize) {
        let line = self.line(begin);
        let after = &self.text[begin + BEGIN.len()..];
        let first_line = &after[..after.find('\n').unwrap_or(after.len())];
        let Some(label) = first_line.find(DASHES) else {
            self.damaged(begin, "its BEGIN line is damaged");
            return;
        };
        let body = begin + BEGIN.len() + label + DASHES.len();
        let label = first_line[..label].trim().to_owned();
        let rest = &self.text[body..];
        let next = rest.find(BEGIN);
        let end = rest[..next.unwrap_or(rest.len())].find(END);
        let fault = |reason: &str| Err(reason.to_owned());
        let Some(end) = end else {
            self.at = next.map_or(self.text.len(), |next| body + next);
            let content = match self.text[body..self.at].contains('-') {
                true => fault("its END line is damaged"),
                false => fault("it has no END line: the file was cut short"),
            };
            self.found.push(Section { line, label, content });
            return;
        };
        let ended = &rest[end + END.len()..];
        let last_line = &ended[..ended.find('\n').unwrap_or(ended.len())];
        let content = match last_line.find(DASHES) {
            None => {
                self.at = body + end + END.len() + last_line.len();
                fault("its END line is damaged")
            }
            Some(dashes) => {
                self.at = body + end + END.len() + dashes + DASHES.len();
                match last_line[..dashes].trim() {
                    name if name == label => decode(&rest[..end]),
                    name => Err(format!("it begins as {label} and ends as {name}")),
                }
            }
        };
        self.found.push(Section { line, label, content });
    }

    /// Reports a section without a readable BEGIN line; everything up to its END line belongs to it.
    fn damaged(&mut self, from: usize, reason: &str) {
        let rest = &self.text[from..];
        // Skip its own marker.
        let body = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let next = rest[body..].find(BEGIN).map_or(rest.len(), |next| body + next);
        let end = rest[body..next].find(END).map(|end| body + end);
        let stop = end.map_or(next, |end| rest[end..].find('\n').map_or(rest.len(), |line| end + line + 1));
        let line = self.line(from);
        self.found.push(Section { line, label: String::new(), content: Err(reason.to_owned()) });
        self.at = from + stop;
    }

    /// Text between sections is a comment, unless it looks like part of a section.
    fn check_between(&mut self, from: usize, to: usize) {
        let mut at = from;
        let mut reported = false;
        for line in self.text[from..to].split_inclusive('\n') {
            let bare = line.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK);
            let reason = match bare {
                _ if bare.starts_with('#') => None,
                _ if is_marker(bare, "BEGIN") => Some("its BEGIN line is damaged"),
                _ if is_marker(bare, "END") => Some("an END line without its BEGIN line"),
                _ if is_base64(bare) => Some("Base64 without a BEGIN line before it"),
                _ => None,
            };
            if let Some(reason) = reason.filter(|_| !reported) {
                // What follows is part of the same damage.
                reported = true;
                let line = self.line(at);
                self.found.push(Section { line, label: String::new(), content: Err(reason.to_owned()) });
            }
            if is_marker(bare, "END") {
                reported = false;
            }
            at += line.len();
        }
    }

    /// The line of an offset, from 1. Cheap when offsets mostly rise.
    fn line(&mut self, at: usize) -> usize {
        let (from, lines) = self.counted;
        let (from, lines) = if at < from { (0, 1) } else { (from, lines) };
        self.counted = (at, lines + self.text[from..at].matches('\n').count());
        self.counted.1
    }
}

/// Whether a line looks like a marker: dashes of any kind before or after the word, or the word before a known label.
fn is_marker(line: &str, word: &str) -> bool {
    let upper = line.to_ascii_uppercase();
    let Some(at) = upper.find(word) else { return false };
    let dash = |c: char| matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    let held = ["CERTIFICATE", "PRIVATE KEY", "X509 CRL", "PARAMETERS"].iter().any(|label| upper.ends_with(label));
    upper.chars().any(dash) && (upper.starts_with(dash) || upper.ends_with(dash)) || upper[..at].is_empty() && held
}

/// Whether a line looks like Base64: no prose has so many letters without a space.
fn is_base64(line: &str) -> bool {
    line.len() >= 40 && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

/// Why an encrypted key cannot be read.
pub(super) const ENCRYPTED: &str = "it is encrypted: the agent has nobody to ask for the password";

fn decode(body: &str) -> Result<Vec<u8>, String> {
    if body.contains("ENCRYPTED") {
        return Err(ENCRYPTED.into());
    }
    // Headers, as RFC 1421 has them, end with an empty line.
    let body = body.split_once("\n\n").filter(|(headers, _)| headers.contains(':')).map_or(body, |(_, body)| body);
    let plain = |c: &char| !(c.is_whitespace() || *c == BYTE_ORDER_MARK);
    let base64: String = body.chars().filter(plain).collect();
    if let Some(odd) = base64.chars().find(|c| !(c.is_ascii_alphanumeric() || ['+', '/', '='].contains(c))) {
        return Err(match odd {
            '-' => "its END line is damaged".into(),
            odd => format!("{odd:?} is not a Base64 character"),
        });
    }
    match BASE64.decode(&base64) {
        Ok(bytes) if bytes.is_empty() => Err("it is empty".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("its Base64 is cut short or damaged".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 60 bytes: two lines of Base64 are nothing special.
    const BODY: &str = "MIIBszCCAVmgAwIBAgIUQ2FyZSB0ZXN0IHJvb3QgY2VydGlmaWNhdGUwDQYJKoZI\nhvcNAQEL";

    fn pem(label: &str) -> String {
        format!("-----BEGIN {label}-----\n{BODY}\n-----END {label}-----\n")
    }

    /// Each section as its line, its label, and what is wrong with it.
    fn read(text: &str) -> Vec<(usize, String, String)> {
        let reported = |section: Section| (section.line, section.label, section.content.err().unwrap_or_default());
        sections(text.as_bytes()).unwrap().into_iter().map(reported).collect()
    }

    fn good(line: usize) -> (usize, String, String) {
        (line, "CERTIFICATE".into(), String::new())
    }

    #[test]
    fn whatever_programs_write_is_read() {
        let one = pem("CERTIFICATE");
        let cases = [
            one.clone(),
            format!("\u{feff}{one}"),
            one.replace('\n', "\r\n"),
            one.replace('\n', "\r"),
            one.trim_end().to_owned(),
            one.lines().map(|line| format!("    {line}\n")).collect(),
            one.replace('\n', " "),
            one.replace('\n', ""),
            one.replace(BODY, &format!("{BODY}\n\n")),
            one.replace('\n', "\r\n\r\n"),
            one.lines().map(|line| format!("\t {line}\u{a0}\n")).collect(),
            one.replace(BODY, &format!("Comment: a root-CA\nX: y\n\n{BODY}")),
            one.replace("-----END", "\u{feff}-----END").replace("IUQ2", "IU\u{feff}Q2"),
        ];
        for text in cases {
            assert_eq!(read(&text), [good(1)], "{text:?}");
        }
        assert_eq!(read(&format!("# the root\nsubject=CN = root\n\n{one}")), [good(4)]);
        assert_eq!(read(&format!("{one}\u{feff}{one}")), [good(1), good(5)], "two files, each with its mark, one behind the other");
        assert_eq!(read(&format!("{}{one}", one.trim_end())), [good(1), good(4)], "no end of line between them");
        assert_eq!(read(&format!("Root CA{one}")), [good(1)], "text before the marker");
        let commented: String = one.lines().map(|line| format!("# {line}\n")).collect();
        assert_eq!(read(&format!("{commented}{one}")), [good(5)], "one that is commented out");
        assert_eq!(read("nothing -- at all\n"), []);
        assert_eq!(sections(format!("r\u{e9}{one}").as_bytes()).unwrap().len(), 1);
        let mut latin_1 = b"# Autorit\xe9\n".to_vec();
        latin_1.extend(one.as_bytes());
        assert!(sections(&latin_1).unwrap()[0].content.is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let one = pem("CERTIFICATE");
        let damaged = "its BEGIN line is damaged";
        for marker in [
            "----BEGIN CERTIFICATE-----",
            "-----BEGIN CERTIFICATE---",
            "-----BEGIN CERTIFICATE",
            "----- BEGIN CERTIFICATE -----",
            "-----begin certificate-----",
            "\u{2014}\u{2014}BEGIN CERTIFICATE\u{2014}\u{2014}",
            "BEGIN CERTIFICATE",
            "-----BEGINCERTIFICATE-----",
        ] {
            let text = format!("{}{one}", one.replace("-----BEGIN CERTIFICATE-----", marker));
            let found = read(&text);
            assert_eq!(found, [(1, String::new(), damaged.into()), good(5)], "{marker}");
        }
        let cases = [
            (one.replace("-----BEGIN CERTIFICATE-----\n", ""), "Base64 without a BEGIN line before it"),
            (one.replace("-----END CERTIFICATE-----\n", ""), "it has no END line: the file was cut short"),
            (one.replace("-----END CERTIFICATE-----", "----END CERTIFICATE-----"), "its END line is damaged"),
            (one.replace("END CERTIFICATE-----", "END CERTIFICATE"), "its END line is damaged"),
            (one.replace("END CERTIFICATE", "END X509 CRL"), "it begins as CERTIFICATE and ends as X509 CRL"),
            (one.replace("hvcNAQEL", "hvcN_QEL"), "'_' is not a Base64 character"),
            (one.replace("hvcNAQEL", "hvcNA"), "its Base64 is cut short or damaged"),
            (one.replace(BODY, ""), "it is empty"),
            (
                one.replace(BODY, &format!("Proc-Type: 4,ENCRYPTED\n\n{BODY}")),
                "it is encrypted: the agent has nobody to ask for the password",
            ),
        ];
        for (text, expected) in cases {
            let found = read(&format!("{text}{one}"));
            assert_eq!((found[0].0, found[0].2.as_str()), (1, expected), "{text}");
            assert_eq!(found.last().map(|(_, _, fault)| fault.as_str()), Some(""), "what follows is read: {found:?}");
            assert_eq!(found.len(), 2, "one fault, reported once: {found:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_named_as_what_it_is() {
        let one = pem("CERTIFICATE");
        let wide = |bytes: fn(u16) -> [u8; 2], mark: &str| format!("{mark}{one}").encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for bytes in
            [wide(u16::to_le_bytes, "\u{feff}"), wide(u16::to_be_bytes, "\u{feff}"), wide(u16::to_le_bytes, ""), wide(u16::to_be_bytes, "")]
        {
            assert!(sections(&bytes).unwrap_err().contains("UTF-16"));
        }
        assert!(sections(&[0x30, 0x82, 1, 2, 3]).unwrap_err().contains("DER"));
        assert!(sections(&[0x30, 3, 2, 1, 0]).unwrap_err().contains("DER"), "a key for a curve is that short");
        assert!(sections(b"a\0b").unwrap_err().contains("binary"));
    }

    proptest! {
        /// Whatever happens to one certificate of three: the others are read, and it is read or named.
        #[test]
        fn a_change_of_one_is_seen(at in 0..150_usize, put in "[ -~\\n\u{feff}\u{2014}]{0,3}", cut in 0..3_usize) {
            let one = pem("CERTIFICATE");
            let at = at.min(one.len() - 1);
            let mut changed = one.clone();
            changed.replace_range(at..(at + cut).min(one.len()), &put);
            let found = read(&format!("{one}{changed}\n{one}"));
            prop_assert!(found.len() >= 3, "{changed:?} was passed over: {found:?}");
            prop_assert_eq!(&found[0], &good(1));
            prop_assert!(found[1..].iter().any(|(_, _, fault)| fault.is_empty()));
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = sections(&bytes);
        }
    }
}
