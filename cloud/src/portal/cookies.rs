//! The portal's cookies: HttpOnly and SameSite=Lax, so that neither a script nor another site's form carries one;
//! Secure where browsers reach the portal by https.

use axum_extra::extract::cookie::{Cookie, SameSite};

/// A cookie that is kept for `max_age_s` seconds; 0 removes it.
pub fn cookie(name: &'static str, value: impl Into<String>, max_age_s: u64, secure: bool) -> Cookie<'static> {
    let max_age = time::Duration::seconds(i64::try_from(max_age_s).unwrap_or(i64::MAX));
    Cookie::build((name, value.into())).path("/").max_age(max_age).http_only(true).same_site(SameSite::Lax).secure(secure).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_out_of_reach_of_scripts_and_of_other_sites() {
        let text = |secure| cookie("care", "x", 60, secure).to_string();
        assert_eq!(text(false), "care=x; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
        assert_eq!(text(true), "care=x; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60");
    }
}
