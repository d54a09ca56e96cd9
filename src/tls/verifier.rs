//! Verifies server certificates by trusted time, which is a lower bound of the true time (`docs/protocol.md#trusted-time`).

use std::{sync::Arc, time::Duration};

use care_engine::trusted_time::{AGREE_WITHIN, LATEST};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::clock::Clock;

/// Verifies servers at T, a lower bound of the true time.
///
/// A certificate that has expired at T is refused. One that is not valid yet at T may be valid at the true time. Until T is
/// confirmed, a chain is therefore accepted if all of it is valid at *some* time from T on; trying again at the latest
/// `notBefore` finds that time if there is one. This accepts nothing that has expired at T, since a certificate valid at a
/// later time has a `notAfter` later still. Once T is confirmed it is known to 10 minutes, so `notBefore` may be that much
/// ahead.
#[derive(Debug)]
pub(super) struct LowerBoundVerifier {
    pub webpki: Arc<WebPkiServerVerifier>,
    pub clock: Clock,
}

impl LowerBoundVerifier {
    /// When the first certificate of a verified chain expires: the last second at which the chain still verifies. Each round
    /// goes back to an earlier `notAfter`, of which a chain has a handful.
    pub fn valid_until(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
    ) -> Duration {
        let mut end = LATEST;
        loop {
            let at = UnixTime::since_unix_epoch(end);
            match self.webpki.verify_server_cert(end_entity, intermediates, server_name, &[], at) {
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }))
                    if not_after.as_secs() < end.as_secs() =>
                {
                    end = Duration::from_secs(not_after.as_secs());
                }
                _ => return end,
            }
        }
    }
}

impl ServerCertVerifier for LowerBoundVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let latest = match self.clock.now().confirmed {
            true => now.as_secs().saturating_add(AGREE_WITHIN.as_secs()),
            false => u64::MAX,
        };
        let mut at = now;
        loop {
            let judged = self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at);
            match judged {
                // Each round moves `at` to a later notBefore, of which a chain has a handful.
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before.as_secs() > at.as_secs() && not_before.as_secs() <= latest =>
                {
                    at = not_before;
                }
                // The error names trusted time, not the time that the search has reached.
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                    return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
                }
                judged => return judged,
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{
        TlsFault, ValidUntil, device_client,
        tests::{DAY, Pki, T, handshake_noting},
    };

    #[test]
    fn a_certificate_issued_after_build_and_saved_time_connects_until_the_clock_is_confirmed() {
        let pki = Pki::new();
        let issued = T + 400 * DAY;
        assert_eq!(pki.connect(pki.server(issued, issued + DAY), "localhost", false), Ok(()));
        let fault = pki.connect(pki.server(issued, issued + DAY), "localhost", true).unwrap_err();
        assert!(
            matches!(&fault, TlsFault::NotYetValid { not_before, trusted, .. } if (not_before.as_second(), trusted.as_second()) == (issued, T))
        );
    }

    #[test]
    fn a_whole_chain_issued_later_connects_until_the_clock_is_confirmed() {
        let pki = Pki::new();
        let (middle_from, leaf_from) = (T + 500 * DAY, T + 400 * DAY);
        let chain = |leaf_until| {
            let middle = pki.authority.below("middle", middle_from..T + 900 * DAY);
            let above = vec![middle.der()];
            pki.server_below(&middle, above, leaf_from, leaf_until, rustls::DEFAULT_VERSIONS)
        };
        assert_eq!(pki.connect(chain(middle_from + DAY), "localhost", false), Ok(()));
        assert!(matches!(pki.connect(chain(middle_from + DAY), "localhost", true), Err(TlsFault::NotYetValid { .. })));
        // The leaf expires before the intermediate becomes valid: no time fits this chain.
        let fault = pki.connect(chain(middle_from - DAY), "localhost", false).unwrap_err();
        let ended = middle_from - DAY;
        assert!(
            matches!(&fault, TlsFault::Expired { not_after, trusted, .. } if (not_after.as_second(), trusted.as_second()) == (ended, T))
        );
    }

    #[test]
    fn a_handshake_notes_the_earliest_end_in_the_chain_that_was_verified() {
        let pki = Pki::new();
        let until = |server| {
            let valid_until = ValidUntil::default();
            assert_eq!(valid_until.get(), None);
            let client = device_client(&pki.files(), &Clock::at(Duration::from_secs(T as u64), false)).unwrap();
            handshake_noting(client, server, "localhost", &valid_until).unwrap();
            valid_until.get().unwrap().as_secs() as i64
        };
        assert_eq!(until(pki.server(T - DAY, T + 40 * DAY)), T + 40 * DAY);
        assert_eq!(until(pki.server(T + DAY, T + 40 * DAY)), T + 40 * DAY, "not valid yet at T");
        let middle = pki.authority.below("middle", T - DAY..T + 20 * DAY);
        let expired = pki.authority.below("older", T - 20 * DAY..T - DAY);
        for leaf_ends in [T + 10 * DAY, T + 30 * DAY] {
            // Unrelated certificates that the server sends do not count.
            let above = vec![middle.der(), expired.der()];
            let server = pki.server_below(&middle, above, T - DAY, leaf_ends, rustls::DEFAULT_VERSIONS);
            assert_eq!(until(server), leaf_ends.min(T + 20 * DAY));
        }
    }

    #[test]
    fn an_expired_certificate_is_refused_confirmed_or_not() {
        let pki = Pki::new();
        for confirmed in [false, true] {
            let fault = pki.connect(pki.server(T - DAY, T - 1), "localhost", confirmed).unwrap_err();
            assert!(matches!(&fault, TlsFault::Expired { not_after, .. } if not_after.as_second() == T - 1));
            let words =
                "the server's certificate expired on 2025-12-31T23:59:59Z: trusted time is 2026-01-01T00:00:00Z, the system clock says 20";
            assert!(fault.to_string().starts_with(words), "{fault}");
        }
    }

    #[test]
    fn an_expired_intermediate_is_not_excused_by_a_leaf_of_tomorrow() {
        let pki = Pki::new();
        let middle = pki.authority.below("middle", T - 2 * DAY..T - DAY);
        let above = vec![middle.der()];
        let server = pki.server_below(&middle, above, T + DAY, T + 2 * DAY, rustls::DEFAULT_VERSIONS);
        assert!(matches!(pki.connect(server, "localhost", false), Err(TlsFault::Expired { .. })));
    }

    #[test]
    fn a_confirmed_clock_allows_notbefore_its_own_ten_minutes() {
        let pki = Pki::new();
        assert_eq!(pki.connect(pki.server(T + 600, T + DAY), "localhost", true), Ok(()));
        assert!(pki.connect(pki.server(T + 601, T + DAY), "localhost", true).is_err());
    }

    #[test]
    fn a_later_notbefore_excuses_nothing_else() {
        let pki = Pki::new();
        let fault = pki.connect(pki.server(T + DAY, T + 2 * DAY), "other.example", false).unwrap_err();
        assert!(matches!(fault, TlsFault::OtherNames { .. }), "{fault}");
        let other = Pki::new();
        assert_eq!(pki.connect(other.server(T + DAY, T + 2 * DAY), "localhost", false), Err(TlsFault::UnknownAuthority));
    }
}
