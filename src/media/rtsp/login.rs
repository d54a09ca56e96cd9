//! Proves to a camera who asks: digest (RFC 7616, and RFC 2069 before it) with MD5, SHA-256 and SHA-512/256, or basic (RFC 7617).
//! It reads challenges, decides whether one is worth another try, and writes the header `Authorization`. Pure but for a random
//! number; the fuzz target `rtsp` feeds it. Called by `conversation`, and by `media::snapshot` for HTTP, whose logins are the same.

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use ring::{
    digest::{SHA256, SHA512_256, digest},
    rand::{SystemRandom, generate},
};

use super::message::Response;
use crate::hex::hex;

/// A user and a password, as people know them.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::media) struct Credentials {
    pub user: String,
    pub password: String,
}

/// Why a login does not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::media) enum LoginFault {
    /// The camera asks for one, and the address has none.
    NoCredentials,
    /// The camera names no way to log in that is known here, but these.
    Unsupported(String),
    Refused,
}

/// What one connection knows of the camera's login.
pub(in crate::media) struct Login {
    credentials: Option<Credentials>,
    challenge: Option<Challenge>,
    /// A request that answered a challenge has been accepted, so the password is right.
    accepted: bool,
}

impl Login {
    pub fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, challenge: None, accepted: false }
    }

    /// The value of `Authorization` for the next request, once the camera has asked for one.
    pub fn authorization(&mut self, method: &str, uri: &str) -> Option<String> {
        let (credentials, challenge) = (self.credentials.as_ref()?, self.challenge.as_mut()?);
        Some(challenge.answer(credentials, method, uri))
    }

    /// A request was not refused.
    pub fn passed(&mut self) {
        self.accepted |= self.challenge.is_some();
    }

    /// A request was refused with 401. `Ok`: it is worth sending once more.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn refused(&mut self, response: &Response) -> Result<(), LoginFault> {
        self.asked(&response.headers.all("WWW-Authenticate").collect::<Vec<_>>())
    }

    /// The same, given the values of `WWW-Authenticate`: HTTP has them, too.
    ///
    /// # Errors
    /// Why it is not.
    pub fn asked(&mut self, offered: &[&str]) -> Result<(), LoginFault> {
        if self.credentials.is_none() {
            return Err(LoginFault::NoCredentials);
        }
        let asked = Challenge::choose(offered).ok_or_else(|| LoginFault::Unsupported(offered.join(", ")))?;
        let again = self.challenge.as_ref().is_none_or(|answered| asked.differs(answered) && (asked.is_stale() || self.accepted));
        self.challenge = Some(asked);
        if again { Ok(()) } else { Err(LoginFault::Refused) }
    }
}

/// A way to log in that the camera offers.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Digest(Digest),
}

impl Challenge {
    /// The first digest in the headers, or else basic.
    fn choose(headers: &[&str]) -> Option<Self> {
        let offers = || headers.iter().flat_map(|header| offers(header));
        let digest = offers().filter(|offer| offer.scheme.eq_ignore_ascii_case("Digest")).find_map(|offer| Digest::of(&offer));
        let basic = || offers().any(|offer| offer.scheme.eq_ignore_ascii_case("Basic")).then_some(Self::Basic);
        digest.map(Self::Digest).or_else(basic)
    }

    fn is_stale(&self) -> bool {
        matches!(self, Self::Digest(digest) if digest.stale)
    }

    /// Whether the answer to this differs from the one to `other`.
    fn differs(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Digest(this), Self::Digest(other)) => this.nonce != other.nonce || this.algorithm != other.algorithm,
            (this, other) => this != other,
        }
    }

    fn answer(&mut self, credentials: &Credentials, method: &str, uri: &str) -> String {
        match self {
            Self::Basic => format!("Basic {}", STANDARD.encode(format!("{}:{}", credentials.user, credentials.password))),
            Self::Digest(digest) => digest.answer(credentials, method, uri, &client_nonce()),
        }
    }
}

/// A digest challenge.
#[derive(Debug, PartialEq, Eq)]
struct Digest {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    /// The algorithm's name, if the camera gives one: it is repeated.
    named: Option<String>,
    /// The algorithm's variant of that name.
    session: bool,
    quality: Option<&'static str>,
    stale: bool,
    /// The user's name is hashed, too.
    user_hash: bool,
    /// Names beyond ASCII are sent as RFC 8187 says. Cameras that do not ask for that expect them as they are.
    utf8: bool,
    /// How often the nonce has been used.
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512,
}

impl Algorithm {
    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(digest(&SHA256, text.as_bytes()).as_ref()),
            Self::Sha512 => hex(digest(&SHA512_256, text.as_bytes()).as_ref()),
        }
    }
}

impl Digest {
    /// `None`: it takes an algorithm or a quality of protection that is not known here.
    fn of(offer: &Offer) -> Option<Self> {
        let is_true = |name| offer.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let named = offer.get("algorithm").filter(|name| !name.is_empty());
        let name = named.unwrap_or("MD5").to_ascii_uppercase();
        let (name, session) = name.strip_suffix("-SESS").map_or((name.as_str(), false), |name| (name, true));
        let algorithm = match name {
            "MD5" => Algorithm::Md5,
            "SHA-256" => Algorithm::Sha256,
            "SHA-512-256" => Algorithm::Sha512,
            _ => return None,
        };
        let quality = match offer.get("qop").filter(|offered| !offered.trim().is_empty()) {
            None => None,
            Some(offered) => {
                let offers = |quality: &&str| offered.split(',').any(|word| word.trim().eq_ignore_ascii_case(quality));
                Some(["auth", "auth-int"].into_iter().find(offers)?)
            }
        };
        Some(Self {
            realm: offer.get("realm").unwrap_or_default().to_owned(),
            nonce: offer.get("nonce").unwrap_or_default().to_owned(),
            opaque: offer.get("opaque").map(str::to_owned),
            algorithm,
            named: named.map(str::to_owned),
            session,
            quality,
            stale: is_true("stale"),
            user_hash: is_true("userhash"),
            utf8: offer.get("charset").is_some_and(|charset| charset.eq_ignore_ascii_case("UTF-8")),
            count: 0,
        })
    }

    /// RFC 7616, *The Authorization Header Field*. The first five parameters stand in the order that the oldest clients have.
    fn answer(&mut self, credentials: &Credentials, method: &str, uri: &str, client_nonce: &str) -> String {
        let Credentials { user, password } = credentials;
        let hash = |text: &str| self.algorithm.hash(text);
        let (realm, nonce) = (&self.realm, &self.nonce);
        self.count = self.count.wrapping_add(1);
        let count = format!("{:08x}", self.count);
        let mut secret = hash(&format!("{user}:{realm}:{password}"));
        if self.session {
            secret = hash(&format!("{secret}:{nonce}:{client_nonce}"));
        }
        let request = match self.quality {
            // The requests have no body.
            Some("auth-int") => hash(&format!("{method}:{uri}:{}", hash(""))),
            _ => hash(&format!("{method}:{uri}")),
        };
        let response = match self.quality {
            Some(quality) => hash(&format!("{secret}:{nonce}:{count}:{client_nonce}:{quality}:{request}")),
            None => hash(&format!("{secret}:{nonce}:{request}")),
        };
        let user = match (self.user_hash, self.utf8 && !user.is_ascii()) {
            (true, _) => format!("username=\"{}\"", hash(&format!("{user}:{realm}"))),
            (false, true) => {
                format!("username*=UTF-8''{}", percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC))
            }
            (false, false) => format!("username=\"{}\"", quoted(user)),
        };
        let (realm, nonce) = (quoted(realm), quoted(nonce));
        let mut text = format!("Digest {user}, realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\"");
        let mut add = |parameter: String| {
            text.push_str(", ");
            text.push_str(&parameter);
        };
        if let Some(name) = &self.named {
            add(format!("algorithm={name}"));
        }
        if self.quality.is_some() || self.session {
            add(format!("cnonce=\"{client_nonce}\""));
        }
        if let Some(quality) = self.quality {
            add(format!("qop={quality}, nc={count}"));
        }
        if let Some(opaque) = &self.opaque {
            add(format!("opaque=\"{}\"", quoted(opaque)));
        }
        if self.user_hash {
            add("userhash=true".to_owned());
        }
        text
    }
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Random bytes as text.
fn client_nonce() -> String {
    let random = generate::<[u8; 8]>(&SystemRandom::new()).map_or_else(|_| fastrand::u64(..).to_be_bytes(), |random| random.expose());
    hex(&random)
}

/// A scheme and its parameters.
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Offer {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Reads the value of `WWW-Authenticate`. Schemes and parameters are both separated by commas; a parameter has a `=`.
fn offers(header: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.trim_start().strip_prefix('=') {
            let (value, after) = self::value(value.trim_start());
            if let Some(offer) = offers.last_mut() {
                offer.parameters.push((word.to_owned(), value));
            }
            rest = after;
        } else if word.is_empty() {
            return offers;
        } else {
            offers.push(Offer { scheme: word.to_owned(), parameters: Vec::new() });
            rest = after;
        }
    }
}

/// A quoted string or a word, and what follows it. A string without an end has all that is left.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, after) = text.split_at(text.find(',').unwrap_or(text.len()));
        return (word.trim().to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

/// The fuzz target's part: any header is read and answered.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn answered(header: &str) -> Option<String> {
    let credentials = Credentials { user: "\u{e4}d\"min".into(), password: "p\u{20ac}:w\\".into() };
    Some(Challenge::choose(&[header])?.answer(&credentials, "PLAY", "rtsp://camera/live"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::rtsp::message::{Message, Reader};

    fn digest_of(header: &str) -> Digest {
        match Challenge::choose(&[header]) {
            Some(Challenge::Digest(digest)) => digest,
            other => panic!("{header}: {other:?}"),
        }
    }

    fn field<'a>(answer: &'a str, name: &str) -> &'a str {
        let rest = answer.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{answer}: no {name}")).1;
        rest.trim_start_matches('"').split(['"', ',']).next().unwrap()
    }

    /// The examples of RFC 7616, with SHA-512-256 as erratum 4897 corrects it, and that of RFC 2069, also as corrected.
    #[test]
    fn the_examples_of_the_standards_are_answered_as_they_say() {
        let mufasa = Credentials { user: "Mufasa".into(), password: "Circle of Life".into() };
        let client_nonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        for (algorithm, response) in
            [("MD5", "8ca523f5e9506fed4657c9700eebdbec"), ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1")]
        {
            let mut digest = digest_of(&format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            ));
            let answer = digest.answer(&mufasa, "GET", "/dir/index.html", client_nonce);
            assert_eq!(field(&answer, "response"), response, "{answer}");
            assert_eq!((field(&answer, "nc"), field(&answer, "qop"), field(&answer, "algorithm")), ("00000001", "auth", algorithm));
            assert!(digest.answer(&mufasa, "GET", "/dir/index.html", client_nonce).contains("nc=00000002"));
        }
        let mut oldest = digest_of("Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"");
        let joined = Credentials { password: "CircleOfLife".into(), ..mufasa };
        let answer = oldest.answer(&joined, "GET", "/dir/index.html", "unused");
        assert_eq!(field(&answer, "response"), "1949323746fe6a43ef61f9606e7febea", "{answer}");
        assert!(!answer.contains("cnonce") && !answer.contains("algorithm"), "{answer}");
        let mut hashed = digest_of(
            "Digest realm=\"api@example.org\", nonce=\"5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK\", qop=\"auth\", \
             algorithm=SHA-512-256, charset=UTF-8, userhash=true",
        );
        let jason = Credentials { user: "J\u{e4}s\u{f8}n Doe".into(), password: "Secret, or not?".into() };
        let answer = hashed.answer(&jason, "GET", "/doe.json", "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v");
        assert_eq!(field(&answer, "username"), "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b", "{answer}");
        assert_eq!(field(&answer, "response"), "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5", "{answer}");
    }

    #[test]
    fn the_first_known_digest_is_answered_and_basic_only_without_one() {
        let named = |headers: &[&str]| match Challenge::choose(headers) {
            Some(Challenge::Digest(digest)) => digest.named.unwrap_or_else(|| "none".into()),
            Some(Challenge::Basic) => "Basic".into(),
            None => "unknown".into(),
        };
        assert_eq!(named(&["Basic realm=\"x\"", "Digest realm=\"x\", nonce=\"y\""]), "none");
        assert_eq!(named(&["Basic realm=\"x\", Digest realm=\"x\", nonce=\"y\", algorithm=sha-256"]), "sha-256");
        assert_eq!(named(&["Digest realm=\"x\",nonce=y,algorithm=\"SHA-256\"", "Digest algorithm=MD5"]), "SHA-256");
        assert_eq!(named(&["Digest algorithm=SHA3", "Digest qop=token", "Digest algorithm=MD5-sess"]), "MD5-sess");
        assert_eq!(named(&["NTLM", "basic"]), "Basic");
        assert_eq!(named(&["NTLM", "Digest algorithm=token"]), "unknown");
        assert_eq!(named(&["", ",,,", "realm=\"Digest\""]), "unknown");
    }

    #[test]
    fn any_user_and_any_realm_can_be_written() {
        let given = Credentials { user: "\u{e4}d\"min".into(), password: "x".into() };
        let answer = |header: &str| digest_of(header).answer(&given, "PLAY", "rtsp://camera/", "c");
        let plain = answer(r#"Digest realm="a \"b\" \\", nonce="n"#);
        assert!(
            plain.starts_with(r#"Digest username="äd\"min", realm="a \"b\" \\", nonce="n", uri="rtsp://camera/", response=""#),
            "{plain}"
        );
        assert!(answer("Digest realm=\"x\", charset=utf-8").starts_with("Digest username*=UTF-8''%C3%A4d%22min, realm=\"x\""));
        assert!(answer("Digest realm=\"\u{6444}\u{50cf}\", nonce=\"n\"").contains("realm=\"\u{6444}\u{50cf}\""));
    }

    fn refusal(challenge: &str) -> Response {
        let text = format!("RTSP/1.0 401 Unauthorized\r\n{challenge}\r\n\r\n");
        match Reader::default().next(&mut text.as_bytes().into()) {
            Ok(Some(Message::Response(response))) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_password_is_tried_again_only_where_that_may_help() {
        let given = || Login::new(Some(Credentials { user: "me".into(), password: "x".into() }));
        let challenge = |nonce: &str, more: &str| refusal(&format!("WWW-Authenticate: Digest realm=\"x\", nonce=\"{nonce}\"{more}"));
        assert_eq!(Login::new(None).refused(&challenge("1", "")), Err(LoginFault::NoCredentials));
        assert_eq!(given().refused(&refusal("WWW-Authenticate: NTLM")), Err(LoginFault::Unsupported("NTLM".into())));
        assert_eq!(given().refused(&refusal("X: y")), Err(LoginFault::Unsupported(String::new())));

        let mut login = given();
        assert!(login.authorization("PLAY", "x").is_none(), "nothing is said before the camera asks");
        assert_eq!(login.refused(&challenge("1", "")), Ok(()));
        assert!(login.authorization("PLAY", "x").is_some());
        assert_eq!(login.refused(&challenge("2", "")), Err(LoginFault::Refused), "another nonce alone is no reason before a success");

        let mut login = given();
        assert_eq!(login.refused(&challenge("1", "")), Ok(()));
        assert_eq!(login.refused(&challenge("2", ", stale=TRUE")), Ok(()), "the nonce was too old, not the password wrong");
        assert_eq!(login.refused(&challenge("2", ", stale=true")), Err(LoginFault::Refused), "the same nonce is not stale at once");
        login.passed();
        assert_eq!(login.refused(&challenge("3", "")), Ok(()), "a camera that changes nonces without a word");
        assert_eq!(login.refused(&challenge("3", "")), Err(LoginFault::Refused));

        let mut login = given();
        assert_eq!(login.refused(&refusal("WWW-Authenticate: Basic realm=\"x\"")), Ok(()));
        assert_eq!(login.authorization("PLAY", "x").as_deref(), Some("Basic bWU6eA=="));
        login.passed();
        assert_eq!(login.refused(&refusal("WWW-Authenticate: Basic realm=\"x\"")), Err(LoginFault::Refused));
    }

    proptest! {
        #[test]
        fn no_challenge_panics(text in "(Digest|Basic|, |[a-z]{1,9}=|\"|\\\\|[ -~\u{e4}\u{20ac}]){0,40}") {
            let _ = answered(&text);
        }
    }
}
