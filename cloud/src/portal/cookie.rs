//! Cookies, read and made. Every cookie of the portal is HttpOnly and SameSite=Lax, so that neither a script nor another
//! site's form carries it; it is Secure, and bound to this host by its name, where the portal is reached by https.

use axum::http::{HeaderMap, HeaderValue, header};

/// The value of the first cookie of this name.
pub fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// A `Set-Cookie` value that holds for so many seconds; 0 takes the cookie away.
pub fn set(name: &str, value: &str, max_age_s: u64, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    HeaderValue::from_str(&format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_and_only_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; care=2; xcare=3"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=4"));
        assert_eq!(value(&headers, "care"), Some("2"));
        assert_eq!(value(&headers, "b"), Some("4"));
        assert_eq!(value(&headers, "are"), None);
    }

    #[test]
    fn a_cookie_is_out_of_reach_of_scripts_and_of_other_sites() {
        let text = |secure| set("care", "x", 60, secure).unwrap().to_str().unwrap().to_owned();
        assert_eq!(text(false), "care=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
        assert!(text(true).ends_with("; Secure"));
        assert!(set("care", "line\nbreak", 60, false).is_none());
    }
}
