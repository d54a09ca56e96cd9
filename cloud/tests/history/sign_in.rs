//! Signing in: which account a TP-Link ID and a password open.

use care_cloud::domain::accounts::{PasswordHash, set_sign_in};

use super::world::World;

#[tokio::test]
async fn only_login_and_password_together_open_their_account() {
    let world = World::new();
    for (account, login, password) in [("ann", "ann@example.com", "correct horse"), ("bob", "bob@example.com", "battery staple")] {
        world.add_to(account, &format!("CAM-{account}"), "KC420WS");
        let hash = PasswordHash::new(password).unwrap();
        world.cloud.db.transact(|tx| set_sign_in(tx, account, login, &hash, 1)).unwrap();
    }
    // An account that nobody was given a sign-in for.
    world.add_to("carl", "CAM-carl", "KC420WS");
    let opened = async |login: &str, password: &str| world.cloud.sign_in(login, password).await.unwrap().map(|account| account.id);
    assert_eq!(opened("Ann@Example.com", "correct horse").await.as_deref(), Some("ann"));
    assert_eq!(opened("bob@example.com", "battery staple").await.as_deref(), Some("bob"));
    for (login, password) in [("ann@example.com", "battery staple"), ("carl", ""), ("", ""), ("nobody@example.com", "correct horse")] {
        assert_eq!(opened(login, password).await, None, "{login}");
    }
    let view = care_cloud::portal::account_view::read(&world.cloud, "ann").await.unwrap().unwrap();
    assert_eq!(view.cameras.iter().map(|camera| camera.device.as_str()).collect::<Vec<_>>(), ["CAM-ann"]);
    assert!(!serde_json::to_string(&view).unwrap().contains("pbkdf2"), "no hash in what a page shows");
}
