//! Certificates for the tests. Not with rcgen: it needs `time`, whose versions without a known fault need a newer Rust than
//! the firmware's, and these tests run on the camera's architectures too.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::certificate::Certificate;
use x509_cert::der::asn1::{Ia5String, UtcTime};
use x509_cert::der::{Encode, EncodePem};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::{Time, Validity};

/// A certificate and its key.
pub struct Issued {
    certificate: Certificate,
    key: SigningKey,
}

/// One that signs others.
pub struct Authority(Issued);

impl Authority {
    /// A root of this common name, valid in this span of Unix seconds.
    pub fn root(name: &str, valid: Range<i64>) -> Self {
        let key = new_key();
        Self(issue(name, valid, Profile::Root, &key, key.clone()))
    }

    /// An intermediate authority below this one.
    pub fn below(&self, name: &str, valid: Range<i64>) -> Self {
        let profile = Profile::SubCA { issuer: self.subject(), path_len_constraint: None };
        Self(issue(name, valid, profile, &self.0.key, new_key()))
    }

    /// A certificate for a server or device: `name` is its common name and its DNS name.
    pub fn leaf(&self, name: &str, valid: Range<i64>) -> Issued {
        let profile = Profile::Leaf { issuer: self.subject(), enable_key_agreement: false, enable_key_encipherment: false };
        issue(name, valid, profile, &self.0.key, new_key())
    }

    /// Its certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der()
    }

    fn subject(&self) -> Name {
        self.0.certificate.tbs_certificate.subject.clone()
    }
}

impl Issued {
    /// A certificate that vouches for itself, valid for long.
    pub fn self_signed(name: &str) -> Self {
        Authority::root(name, 0..2_000_000_000).0
    }

    /// The certificate, as PEM.
    pub fn pem(&self) -> String {
        self.certificate.to_pem(LineEnding::LF).unwrap()
    }

    /// The certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.to_der().unwrap().into()
    }

    /// The private key, as PEM.
    pub fn key_pem(&self) -> String {
        self.key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string()
    }

    /// The private key.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.to_pkcs8_der().unwrap().as_bytes().to_vec()).unwrap()
    }
}

fn new_key() -> SigningKey {
    SigningKey::random(&mut p256::elliptic_curve::rand_core::OsRng)
}

fn issue(name: &str, valid: Range<i64>, profile: Profile, signer: &SigningKey, key: SigningKey) -> Issued {
    let ca = !matches!(profile, Profile::Leaf { .. });
    let subject = Name::from_str(&format!("CN={name}")).unwrap();
    let public = SubjectPublicKeyInfoOwned::from_key(*key.verifying_key()).unwrap();
    let validity = Validity { not_before: time(valid.start), not_after: time(valid.end) };
    let mut builder = CertificateBuilder::new(profile, SerialNumber::from(1u8), validity, subject, public, signer).unwrap();
    if !ca {
        let dns = GeneralName::DnsName(Ia5String::new(name).unwrap());
        builder.add_extension(&SubjectAltName(vec![dns])).unwrap();
    }
    Issued { certificate: builder.build::<DerSignature>().unwrap(), key }
}

/// UTCTime, which RFC 5280 (4.1.2.5.1) has for the years up to 2049.
fn time(seconds: i64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(seconds.try_into().unwrap())).unwrap())
}
