//! Cameras that ask for a password: Digest with MD5 and SHA-256, Basic, several offers at once, passwords with any
//! character.

use care_tests::{
    build::Build,
    filming::{Filming, Kind, film_all},
    in_each_build,
};
use rtsp_camera::{Credentials, Options, Scheme};

use super::{PATIENCE, h264};

fn guarded(schemes: &[Scheme], password: &str, change: impl FnOnce(&mut Credentials)) -> Options {
    let mut credentials = Credentials::new(schemes, "admin", password);
    change(&mut credentials);
    h264(|camera| camera.credentials = Some(credentials))
}

in_each_build!(s102_a_camera_that_offers_only_a_sha_256_digest_is_filmed);

async fn s102_a_camera_that_offers_only_a_sha_256_digest_is_filmed(build: Build) {
    let kinds = vec![
        Kind::new("SHA-256", guarded(&[Scheme::Sha256], "hunter2", |_| {})).user("admin:hunter2"),
        Kind::new("SHA-256 with qop", guarded(&[Scheme::Sha256], "hunter2", |credentials| credentials.qop = true)).user("admin:hunter2"),
    ];
    film_all(build, PATIENCE, kinds).await;
}

#[tokio::test]
async fn every_offer_of_authentication_is_accepted() {
    use Scheme::{Basic, Md5, Sha256};
    let kinds = vec![
        Kind::new("SHA-256 and MD5", guarded(&[Sha256, Md5], "hunter2", |_| {})).user("admin:hunter2"),
        Kind::new("MD5 and SHA-256", guarded(&[Md5, Sha256], "hunter2", |_| {})).user("admin:hunter2"),
        Kind::new("MD5", guarded(&[Md5], "hunter2", |_| {})).user("admin:hunter2"),
        Kind::new("MD5 with qop", guarded(&[Md5], "hunter2", |credentials| credentials.qop = true)).user("admin:hunter2"),
        Kind::new("Basic", guarded(&[Basic], "hunter2", |_| {})).user("admin:hunter2"),
        Kind::new("Basic and MD5", guarded(&[Basic, Md5], "hunter2", |_| {})).user("admin:hunter2"),
        Kind::new("SHA-256, encoded slash and at", guarded(&[Sha256], "hunter2/p@ss:w%rd", |_| {})).user("admin:hunter2%2Fp%40ss%3Aw%25rd"),
        Kind::new("an unencoded slash", guarded(&[Md5], "hunter2/secret", |_| {})).user("admin:hunter2/secret"),
        Kind::new("an unencoded at", guarded(&[Md5], "hunter@2", |_| {})).user("admin:hunter@2"),
        Kind::new("letters beyond ASCII", guarded(&[Sha256], "pässwörd", |_| {})).user("admin:p%C3%A4ssw%C3%B6rd"),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn nonces_that_serve_few_requests_cost_no_frame() {
    let short_lived = |scheme, uses| guarded(&[scheme], "hunter2", |credentials| credentials.nonce_uses = Some(uses));
    let kinds = vec![
        Kind::new("one request", short_lived(Scheme::Md5, 1)).user("admin:hunter2"),
        Kind::new("two requests", short_lived(Scheme::Sha256, 2)).user("admin:hunter2"),
    ];
    film_all(Build::WithoutGstreamer, PATIENCE, kinds).await;
}

#[tokio::test]
async fn a_camera_whose_nonces_serve_no_request_is_named() {
    let pki = care_tests::pki::Pki::new();
    let options = guarded(&[Scheme::Md5], "hunter2", |credentials| credentials.nonce_uses = Some(0));
    let film = Filming::start(&pki, Build::WithoutGstreamer, Kind::new("nonces for no request", options).user("admin:hunter2"));
    let said = film.agent.condition("stream").await;
    assert!(said.contains("401") && !said.contains("hunter2"), "{said}");
}
