//! `[local_mqtt]`: the broker in the home through which Home Assistant is told of this camera. Never the broker of the
//! entitlement link: what happens to one must not reach the other, and what a home sees belongs on no cloud's broker.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use url::Url;

use super::{
    Broker, Endpoint, FileKind, StoreCa,
    address::{self, MQTT},
    fault::Wrong,
    keys,
    read::topic_prefix,
    section::{Placed, Section, Value, path, some_text, text},
};
use crate::upload::is_local;

/// The longest topic prefix and page address, characters, so that what is published stays within one packet.
const LONGEST: usize = 128;

/// The broker in the home, and what is published there.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalMqtt {
    /// `mqtt://host:1883`, to an address in the home only, or `mqtts://host:8883`.
    pub endpoint: Endpoint,
    /// The authorities that the broker's certificate must chain to; absent exactly when the endpoint is plaintext.
    pub ca: Option<StoreCa>,
    /// User name, and the file that holds the password; absent: the broker asks for none.
    pub login: Option<(String, PathBuf)>,
    /// Where Home Assistant looks for devices; `homeassistant` unless given.
    pub discovery_prefix: String,
    /// The topics of this camera's states begin with it and the device id; `kasa-care` unless given.
    pub base_topic: String,
    /// Where browsers in the home, and Home Assistant, open the camera's page; without a slash at its end.
    pub page_url: Option<String>,
}

impl LocalMqtt {
    /// The files that it names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let ca = self.ca.as_ref().and_then(|ca| if let StoreCa::File(path) = ca { Some(path) } else { None });
        ca.into_iter().chain(self.login.as_ref().map(|(_, password)| password)).map(PathBuf::as_path)
    }
}

pub(super) fn read(
    section: Section,
    link: Option<&Broker>,
    named: &mut impl FnMut(&str, &str, FileKind, &Placed<PathBuf>),
) -> Option<LocalMqtt> {
    let endpoint = section.required("url", "write mqtt://host:1883", |value| endpoint(text(value)?, link.map(|link| &link.endpoint)));
    if !cfg!(feature = "local-mqtt") {
        // Enough to say that this build does nothing with it.
        let (discovery_prefix, base_topic) = (String::new(), String::new());
        return Some(LocalMqtt { endpoint: endpoint?.value, ca: None, login: None, discovery_prefix, base_topic, page_url: None });
    }
    let ca = section.optional("ca", path);
    let is_file = |ca: &&Placed<PathBuf>| ca.value.as_os_str() != "webpki";
    if let Some(ca) = ca.as_ref().filter(is_file) {
        named("local_mqtt", "ca", FileKind::Authorities, ca);
    }
    let ca = match &endpoint {
        Some(endpoint) if endpoint.value.tls && ca.is_none() => {
            if !section.has("ca") {
                section.missing("ca", "name a PEM file with the authority of the broker's certificate, or write \"webpki\"".to_owned());
            }
            None
        }
        Some(endpoint) if endpoint.value.tls => ca.map(|ca| Some(if is_file(&&ca) { StoreCa::File(ca.value) } else { StoreCa::Webpki })),
        _ => Some(None),
    };
    let username = section.optional("username", some_text);
    let password = section.optional("password_file", password_file);
    if let Some(file) = &password {
        named("local_mqtt", "password_file", FileKind::Password, file);
    }
    let login = match (section.has("username"), section.has("password_file")) {
        (true, true) => username.zip(password).map(|(name, file)| Some((name.value, file.value))),
        (false, false) => Some(None),
        (true, false) => {
            section.missing("password_file", "name a file with the user's password, mode 0600, or remove username".to_owned());
            None
        }
        (false, true) => {
            section.missing("username", "write the user's name, or remove password_file".to_owned());
            None
        }
    };
    let discovery_prefix = section.or("discovery_prefix", keys::text("local_mqtt", "discovery_prefix"), short_prefix);
    let base_topic = section.or("base_topic", keys::text("local_mqtt", "base_topic"), short_prefix);
    let page_url = section.or("page_url", None, |value| page_url(text(value)?).map(Some));
    section.finish();
    Some(LocalMqtt {
        endpoint: endpoint?.value,
        ca: ca?,
        login: login?,
        discovery_prefix: discovery_prefix?,
        base_topic: base_topic?,
        page_url: page_url?,
    })
}

fn endpoint(url: &str, link: Option<&Endpoint>) -> Result<Endpoint, Wrong> {
    if url.contains('@') {
        return Err(Wrong::new("carries a user name or password", "write them in username and password_file"));
    }
    let endpoint = address::endpoint_anywhere(url, &MQTT)?;
    let same_host = |link: &&Endpoint| link.host == endpoint.host || (link.is_loopback() && endpoint.is_loopback());
    if link.filter(same_host).is_some_and(|link| link.port == endpoint.port) {
        let wrong = format!("{} is the broker in [broker] url: what a home sees belongs on no cloud's broker", endpoint.authority());
        return Err(Wrong::new(wrong, "name the broker that Home Assistant uses, or remove [local_mqtt]"));
    }
    if !endpoint.tls && endpoint.host.parse::<IpAddr>().is_ok_and(|address| !is_local(address)) {
        let right = format!("write mqtts://{}; mqtt:// is for addresses in the home", endpoint.host);
        return Err(Wrong::new(format!("{url:?} is plaintext to the internet"), right));
    }
    Ok(endpoint)
}

fn short_prefix(value: &Value<'_>) -> Result<String, Wrong> {
    let prefix = topic_prefix(value)?;
    // Home Assistant takes no control characters in topics.
    if prefix.chars().count() > LONGEST || prefix.chars().any(char::is_control) {
        return Err(Wrong::new("is too long, or has control characters", format!("write at most {LONGEST} characters")));
    }
    Ok(prefix)
}

/// Anything else may be the password itself, which faults about a file would quote.
fn password_file(value: &Value<'_>) -> Result<PathBuf, Wrong> {
    let right = "write the password into a file of mode 0600, and the file's path from / on here";
    Some(path(value)?).filter(|path| path.is_absolute()).ok_or_else(|| Wrong::new("does not begin with /", right))
}

fn page_url(text: &str) -> Result<String, Wrong> {
    let wrong =
        |what: &str| Wrong::new(what.to_owned(), "write the address that browsers in the home open, as in \"http://camera.lan:8080\"");
    let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("is no http:// or https:// address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("carries a user name or password, which everyone at the broker would read"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or fragment"));
    }
    match url.as_str().trim_end_matches('/') {
        long if long.chars().count() > LONGEST => Err(wrong("is too long")),
        url => Ok(url.to_owned()),
    }
}

#[cfg(test)]
#[cfg(feature = "local-mqtt")]
mod tests {
    use crate::config::{Config, ConfigFault};

    use super::*;

    fn parse(lines: &str) -> Result<LocalMqtt, Vec<ConfigFault>> {
        let text = format!("{}\n[local_mqtt]\n{lines}\n", include_str!("../../systemd/config.toml"));
        Config::parse(&text, Path::new("config.toml")).map(|config| config.local_mqtt.unwrap())
    }

    /// The key that is wrong, and why.
    fn fault(lines: &str) -> (String, String) {
        let faults = parse(lines).expect_err(lines);
        assert_eq!(faults.len(), 1, "{lines}: {faults:?}");
        (faults[0].key.clone(), format!("{}; {}", faults[0].wrong, faults[0].right))
    }

    #[test]
    fn only_the_url_is_needed() {
        let local = parse("url = \"mqtt://homeassistant.local\"").unwrap();
        assert_eq!(local.endpoint, Endpoint { host: "homeassistant.local".into(), port: 1883, tls: false });
        assert_eq!((&*local.discovery_prefix, &*local.base_topic), ("homeassistant", "kasa-care"));
        assert_eq!((local.ca.as_ref(), local.login.as_ref(), local.page_url.as_ref(), local.paths().count()), (None, None, None, 0));
    }

    #[test]
    fn every_key_is_read() {
        let local = parse(
            "url = \"mqtts://broker.lan\"\nca = \"/home.pem\"\nusername = \"camera\"\npassword_file = \"/password\"\n\
             discovery_prefix = \"ha\"\nbase_topic = \"a/b\"\npage_url = \"https://camera.lan/care/\"",
        );
        let local = local.unwrap();
        assert_eq!(local.endpoint.port, 8883);
        assert_eq!(local.paths().collect::<Vec<_>>(), [Path::new("/home.pem"), Path::new("/password")]);
        assert_eq!(local.page_url.as_deref(), Some("https://camera.lan/care"));
        assert_eq!(parse("url = \"mqtts://h.lan\"\nca = \"webpki\"").unwrap().ca, Some(StoreCa::Webpki));
    }

    #[test]
    fn the_broker_of_the_link_is_refused_by_any_of_its_names() {
        // That of the example.
        let (key, why) = fault("url = \"mqtts://CARE.example:8883\"\nca = \"webpki\"");
        assert!(key == "local_mqtt.url" && why.contains("is the broker in [broker] url"), "{key}: {why}");
        let link = Endpoint { host: "localhost".into(), port: 1883, tls: false };
        assert!(endpoint("mqtt://127.0.0.1", Some(&link)).is_err() && endpoint("mqtt://[::1]:1883", Some(&link)).is_err());
        assert!(endpoint("mqtt://127.0.0.1:1884", Some(&link)).is_ok(), "a second one on this device");
    }

    #[test]
    fn what_would_leave_the_home_in_plaintext_is_refused() {
        for url in ["mqtt://1.1.1.1", "mqtt://[2606:4700::1111]:1883"] {
            assert!(fault(&format!("url = \"{url}\"")).1.contains("plaintext to the internet"), "{url}");
        }
        for url in ["mqtt://192.168.1.2", "mqtt://10.0.0.1:1", "mqtt://[fd00::2]", "mqtt://[fe80::1]", "mqtt://broker.lan"] {
            assert!(parse(&format!("url = \"{url}\"")).is_ok(), "{url}");
        }
    }

    #[test]
    fn odd_values_are_named() {
        let url = "url = \"mqtt://192.168.1.2\"";
        for (lines, key) in [
            ("url = \"http://192.168.1.2\"".to_owned(), "local_mqtt.url"),
            ("url = \"mqtt://camera:secret@192.168.1.2\"".to_owned(), "local_mqtt.url"),
            ("url = \"mqtts://broker.lan\"".to_owned(), "local_mqtt.ca"),
            (format!("{url}\nusername = \"camera\""), "local_mqtt.password_file"),
            (format!("{url}\npassword_file = \"/password\""), "local_mqtt.username"),
            (format!("{url}\nusername = \"camera\"\npassword_file = \"my/secret\""), "local_mqtt.password_file"),
            (format!("{url}\nusername = \" \"\npassword_file = \"/password\""), "local_mqtt.username"),
            (format!("{url}\npassword = \"secret\""), "local_mqtt.password"),
            (format!("{url}\nbase_topic = \"a/+\""), "local_mqtt.base_topic"),
            (format!("{url}\nbase_topic = \"{}\"", "a".repeat(129)), "local_mqtt.base_topic"),
            (format!("{url}\ndiscovery_prefix = \"/ha\""), "local_mqtt.discovery_prefix"),
            (format!("{url}\npage_url = \"camera.lan\""), "local_mqtt.page_url"),
            (format!("{url}\npage_url = \"ftp://camera.lan\""), "local_mqtt.page_url"),
            (format!("{url}\npage_url = \"http://u:secret@camera.lan\""), "local_mqtt.page_url"),
            (format!("{url}\npage_url = \"http://camera.lan/?token=secret\""), "local_mqtt.page_url"),
        ] {
            let (wrong, why) = fault(&lines);
            assert_eq!(wrong, key, "{lines}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
        assert_eq!(fault("ca = \"/ca.pem\"").0, "local_mqtt.url");
    }
}
