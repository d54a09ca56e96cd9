//! When an authority's certificates end: a camera whose authority ends loses its cloud as surely as one whose own does.

use std::{path::Path, time::Duration};

use x509_cert::{Certificate, der::Decode};

use super::{TlsError, authorities};

/// When the last of the authorities in this PEM file ends, since 1970; `None` where none of them says so. A bundle is as good
/// as its longest-lived authority: the old ones beside it may end.
///
/// # Errors
/// The file is unreadable or holds no certificate.
pub fn authorities_end(ca: &Path) -> Result<Option<Duration>, TlsError> {
    let bundle = authorities::bundle(ca)?;
    let parsed = bundle.certificates.iter().filter_map(|certificate| Certificate::from_der(certificate).ok());
    Ok(parsed.map(|x509| x509.tbs_certificate.validity.not_after.to_unix_duration()).max())
}
