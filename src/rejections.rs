//! The reason codes of rejected documents, for people: what each means, and what to do about it. `explain` prints both, and
//! the condition `document_rejected` advises by the second. docs/protocol.md has the same ones.

use care_protocol::Reject;

const PUBLISHER: &str = "look at how the publisher builds the document (docs/protocol.md)";
const KEYSET: &str = "look at the keyset: published, retained, newer than the key's first use?";
const NAMES: &str = "compare aud and iss with the device id and [trust] issuer";
const STANDING: &str = "look at the camera: see the conditions of the same names, and state_not_written";

/// For each code its meaning and its remedy, parts of a [`sentence`], in the order of [`Reject::CODES`].
pub(crate) const WORDS: [(&str, &str); Reject::CODES.len()] = [
    ("it is larger than its limit: 8 KiB for an entitlement, 64 KiB for a keyset, 9 KiB for an answer", PUBLISHER),
    ("it is no compact JWS or no strict JSON, or a field is missing or of the wrong type", PUBLISHER),
    ("its header is not exactly alg, kid and typ with allowed values", PUBLISHER),
    (
        "its signature does not verify under the key that the header names",
        "look at the signing key: it is not the one that the keyset has under this kid",
    ),
    ("no keyset known to the camera has that kid, or no root key of the configuration does", KEYSET),
    ("the keyset revokes that kid", KEYSET),
    ("its iat is before the key's not_before", KEYSET),
    ("aud is another device", NAMES),
    ("iss is not the configured issuer", NAMES),
    ("crit names a field that the camera does not know", PUBLISHER),
    (
        "a value is outside its range or list, or iat lies beyond the bound of the connection",
        "look at the value that the report's detail names; for iat, the publisher's clock",
    ),
    ("account changed without a higher epoch", "look at the epoch: another account needs a higher one"),
    ("the keyset's version is below the highest one seen, or below trust.min_keyset_version", "look at the keyset's version: it must rise"),
    ("the camera has lost its state and takes documents over HTTPS only, until one sets it anew", STANDING),
    ("the camera was reset, and the document's epoch is the one it was bound in then", STANDING),
    ("the document grants more, could not be written to flash, and is not in force", STANDING),
];

/// What to do about a document that is rejected with this code; `None` if there is no such code.
pub(crate) fn remedy(code: &str) -> Option<String> {
    let known = Reject::CODES.iter().zip(WORDS).find(|(known, _)| **known == code);
    known.map(|(_, (_, remedy))| sentence("", remedy))
}

/// As a sentence: the tables of the documents have parts of one.
pub(crate) fn sentence(lead: &str, rest: &str) -> String {
    let mut text = format!("{lead}{rest}");
    if let Some(first) = text.get(..1).map(str::to_ascii_uppercase) {
        text.replace_range(..1, &first);
    }
    if !text.ends_with(['.', '?']) {
        text.push('.');
    }
    text
}
