//! The camera's side of HTTP Basic and Digest authentication (RFC 7617, RFC 7616), with the variants that cameras
//! have: MD5, SHA-256, several challenges, `qop=auth`, nonces that become stale.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::Digest;

const REALM: &str = "IP Camera(12345)";

/// An authentication scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Digest with MD5, without naming the algorithm.
    Md5,
    /// Digest with SHA-256.
    Sha256,
    /// Basic.
    Basic,
}

impl Scheme {
    fn hash(self, text: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256 => hex(&sha2::Sha256::digest(text)),
            Self::Md5 | Self::Basic => hex(&md5::Md5::digest(text)),
        }
    }
}

/// Who may watch, and how they prove it.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The schemes that are offered and accepted, in order.
    pub schemes: Vec<Scheme>,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Whether Digest offers `qop=auth`, and then demands it.
    pub qop: bool,
    /// A nonce is stale after so many requests.
    pub nonce_uses: Option<u32>,
}

impl Credentials {
    /// These schemes, with neither `qop` nor stale nonces.
    pub fn new(schemes: &[Scheme], user: &str, password: &str) -> Self {
        Self { schemes: schemes.to_vec(), user: user.to_owned(), password: password.to_owned(), qop: false, nonce_uses: None }
    }

    /// `SCHEMES:USER:PASSWORD`.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(3, ':');
        let (schemes, user, password) = (parts.next()?, parts.next()?, parts.next()?);
        let scheme = |name| match name {
            "md5" | "digest" => Some(Scheme::Md5),
            "sha256" => Some(Scheme::Sha256),
            "basic" => Some(Scheme::Basic),
            _ => None,
        };
        let schemes = schemes.split(',').map(scheme).collect::<Option<Vec<_>>>()?;
        Some(Self::new(&schemes, user, password))
    }
}

/// Checks the requests of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    credentials: Credentials,
    nonce: u64,
    uses: u32,
}

impl Guard {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, nonce: 0x5eed_0001, uses: 0 }
    }

    fn nonce(&self) -> String {
        format!("{:016x}", self.nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// `None` if the request may pass, else the values of `WWW-Authenticate`.
    pub(crate) fn judge(&mut self, method: &str, uri: &str, authorization: Option<&str>) -> Option<Vec<String>> {
        let Some(authorization) = authorization else { return Some(self.challenges(false)) };
        if let Some(basic) = authorization.strip_prefix("Basic ") {
            let expected = STANDARD.encode(format!("{}:{}", self.credentials.user, self.credentials.password));
            let passes = self.credentials.schemes.contains(&Scheme::Basic) && basic.trim() == expected;
            return (!passes).then(|| self.challenges(false));
        }
        let fields = Fields(authorization);
        if !self.response_is_right(method, uri, &fields) {
            return Some(self.challenges(false));
        }
        self.uses += 1;
        let stale = self.credentials.nonce_uses.is_some_and(|most| self.uses > most) || fields.get("nonce") != Some(self.nonce().as_str());
        if stale {
            self.nonce += 1;
            self.uses = 0;
            return Some(self.challenges(true));
        }
        None
    }

    fn challenges(&self, stale: bool) -> Vec<String> {
        let one = |scheme: &Scheme| {
            let mut text = match scheme {
                Scheme::Basic => return format!("Basic realm=\"{REALM}\""),
                Scheme::Md5 => format!("Digest realm=\"{REALM}\", nonce=\"{}\"", self.nonce()),
                Scheme::Sha256 => format!("Digest realm=\"{REALM}\", nonce=\"{}\", algorithm=SHA-256", self.nonce()),
            };
            if self.credentials.qop {
                text.push_str(", qop=\"auth\"");
            }
            if stale {
                text.push_str(", stale=true");
            }
            text
        };
        self.credentials.schemes.iter().map(one).collect()
    }

    /// RFC 7616, *Response*.
    fn response_is_right(&self, method: &str, uri: &str, fields: &Fields) -> bool {
        let Credentials { schemes, user, password, qop, .. } = &self.credentials;
        let field = |name| fields.get(name).unwrap_or_default();
        let named = match field("algorithm") {
            // Without `qop`, clients that follow RFC 2069 name none, and answer with the algorithm of the challenge.
            "" => [Scheme::Md5, Scheme::Sha256].to_vec(),
            "MD5" => vec![Scheme::Md5],
            "SHA-256" => vec![Scheme::Sha256],
            _ => return false,
        };
        if field("username") != user || field("realm") != REALM || field("uri") != uri || (*qop && field("qop").is_empty()) {
            return false;
        }
        named.into_iter().filter(|scheme| schemes.contains(scheme)).any(|scheme| {
            let secret = scheme.hash(&format!("{user}:{REALM}:{password}"));
            let request = scheme.hash(&format!("{method}:{uri}"));
            let nonce = field("nonce");
            let expected = match field("qop") {
                "" => scheme.hash(&format!("{secret}:{nonce}:{request}")),
                given => scheme.hash(&format!("{secret}:{nonce}:{}:{}:{given}:{request}", field("nc"), field("cnonce"))),
            };
            field("response") == expected
        })
    }
}

/// The parameters of an `Authorization` header.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.0.strip_prefix("Digest ")?;
        loop {
            let (key, after) = rest.split_once('=')?;
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').map_or((after, ""), |(value, _)| (value, &after[value.len()..])),
            };
            if key.trim().eq_ignore_ascii_case(name) {
                return Some(value.trim());
            }
            rest = after.trim_start_matches([',', ' ']);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(guard: &Guard, scheme: Scheme, rest: &str, nc: Option<&str>) -> String {
        let secret = scheme.hash(&format!("admin:{REALM}:hunter2"));
        let request = scheme.hash("PLAY:rtsp://camera/stream");
        let nonce = guard.nonce();
        let response = match nc {
            None => scheme.hash(&format!("{secret}:{nonce}:{request}")),
            Some(nc) => scheme.hash(&format!("{secret}:{nonce}:{nc}:0a:auth:{request}")),
        };
        format!(
            "Digest username=\"admin\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"rtsp://camera/stream\", response=\"{response}\"{rest}"
        )
    }

    fn judged(guard: &mut Guard, authorization: &str) -> Option<Vec<String>> {
        guard.judge("PLAY", "rtsp://camera/stream", Some(authorization))
    }

    #[test]
    fn each_scheme_passes_only_where_it_is_offered() {
        let mut both = Guard::new(Credentials::new(&[Scheme::Sha256, Scheme::Md5], "admin", "hunter2"));
        assert_eq!(both.judge("PLAY", "rtsp://camera/stream", None).unwrap().len(), 2);
        let (md5, sha256) = (answer(&both, Scheme::Md5, "", None), answer(&both, Scheme::Sha256, ", algorithm=SHA-256", None));
        assert_eq!(judged(&mut both, &md5), None);
        assert_eq!(judged(&mut both, &sha256), None);
        assert!(judged(&mut both, "Basic YWRtaW46aHVudGVyMg==").is_some());
        let mut only = Guard::new(Credentials::new(&[Scheme::Sha256], "admin", "hunter2"));
        assert!(judged(&mut only, &md5).is_some());
        assert_eq!(judged(&mut only, &sha256), None);
        let mut basic = Guard::new(Credentials::new(&[Scheme::Basic], "admin", "hunter2"));
        assert_eq!(judged(&mut basic, "Basic YWRtaW46aHVudGVyMg=="), None);
        assert!(judged(&mut basic, "Basic YWRtaW46aHVudGVyMw==").is_some());
    }

    #[test]
    fn a_demanded_qop_may_not_be_left_out_and_a_used_nonce_becomes_stale() {
        let credentials = Credentials { qop: true, nonce_uses: Some(1), ..Credentials::new(&[Scheme::Md5], "admin", "hunter2") };
        let mut guard = Guard::new(credentials);
        let without = answer(&guard, Scheme::Md5, "", None);
        assert!(judged(&mut guard, &without).is_some());
        let with = answer(&guard, Scheme::Md5, ", qop=auth, nc=00000001, cnonce=\"0a\"", Some("00000001"));
        assert_eq!(judged(&mut guard, &with), None);
        let stale = judged(&mut guard, &with).unwrap();
        assert!(stale[0].contains("stale=true") && stale[0].contains(&guard.nonce()), "{stale:?}");
    }
}
