//! The SD card of a bare camera, as cameras mount it, through power cuts while it is recorded to, with and without a check of
//! the file system before the next mount, and a card that is full. Part of `make proof`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use care_protocol::Mode;
use care_tests::{
    bare_camera::{BareCamera, CARD, Cards, Model, STREAM},
    guest::PATIENCE,
    media,
    steps::in_force,
    wait::until,
    world::World,
};

/// A segment ends at the first keyframe after a minute. From its first frame to its last there is a little less, seconds.
const SEGMENT: f64 = 59.5;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn a_fat_card_survives_power_cuts_and_being_full() {
    power_cuts_and_a_full_card(Cards::Vfat).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of a bare camera: scripts/bare-camera.sh"]
async fn an_exfat_card_survives_power_cuts_and_being_full() {
    power_cuts_and_a_full_card(Cards::Exfat).await;
}

async fn power_cuts_and_a_full_card(cards: Cards) {
    let mut world = World::new().await;
    world.agent.config.source = Some(STREAM.to_owned());
    world.agent.config.recording = Some(PathBuf::from(CARD).join("recordings"));
    world.agent.config.allow_internal_storage = false;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let mut camera = BareCamera::new(&mut world, Model { cards, ..Model::default() });
    camera.start();
    in_force(&world.issuer, 0, &premium, Mode::Paid).await;

    let mut open = Vec::new();
    for (repaired, more) in [(false, 300), (true, 1100)] {
        let before = segments(&camera).await.len();
        camera
            .eventually_prints("a whole segment and the next one", &format!("test $(({COUNT})) -ge {} && echo yes", before + 2), "yes")
            .await;
        tokio::time::sleep(Duration::from_millis(more)).await;
        camera.cut_power().await;
        let (said, _) = cards.fsck(&camera.card(0), repaired);
        eprintln!("{cards:?} after a power cut, repaired: {repaired}: {said}");
        let gets = world.issuer.gets();
        camera.start();
        until("a get after the boot", PATIENCE, || (world.issuer.gets() > gets).then_some(())).await;
        let cut = before + 2;
        camera.eventually_prints("it records again", &format!("test $(({COUNT})) -gt {cut} && echo yes"), "yes").await;
        open.push(segments(&camera).await[cut - 1].clone());
    }

    unmounted(&camera).await;
    let files = copied(&camera, cards).await;
    assert!(files.len() >= 5, "{:?}", files.keys());
    let (newest, dir) = (files.keys().next_back().cloned(), tempfile::tempdir().unwrap());
    for (name, bytes) in &files {
        let path = dir.path().join("recording.mp4");
        std::fs::write(&path, bytes).unwrap();
        let film = media::probe(&path);
        eprintln!("{name}: {:.1} s, {} bytes", film.duration(), bytes.len());
        assert!(film.starts_with_keyframe && film.complaints.is_empty(), "{name}: {film:?}");
        // Those that were open when the power went, or the card, end there.
        let was_open = open.contains(name) || newest.as_ref() == Some(name);
        assert!(was_open || film.duration() > SEGMENT, "{name} lasts {:.1} s", film.duration());
    }

    camera.eventually_prints("the card mounted", &format!("{} && echo yes", cards.mount("/dev/vdc")), "yes").await;
    let said = camera.run(&format!("dd if=/dev/zero of={CARD}/filler bs=64k 2>&1; df {CARD}")).await;
    assert!(said.contains("No space left"), "{said}");
    let oldest = files.keys().next().expect("there are files");
    camera.eventually_prints("the oldest gives way", &format!("test -e {CARD}/recordings/{oldest} || echo gone"), "gone").await;
    let newest = format!("stat -c '%n %s' $(find {CARD}/recordings -name '*.mp4' | sort | tail -n 1)");
    let grows = format!("a=$({newest}); sleep 3; test \"$({newest})\" != \"$a\" && echo yes");
    camera.eventually_prints("the open one grows", &grows, "yes").await;
    unmounted(&camera).await;
    camera.cut_power().await;
    let (said, clean) = cards.fsck(&camera.card(0), false);
    assert!(clean, "{cards:?}: {said}");
}

/// Takes the card from the agent, which lets go of it by itself.
async fn unmounted(camera: &BareCamera) {
    camera.eventually_prints("the card unmounted", &format!("sync; umount {CARD} && echo yes"), "yes").await;
}

/// Counts the segments on the card.
const COUNT: &str = "$(find /mnt/mmcblk0p1/recordings -name '*.mp4' -size +0 | wc -l)";

/// The segments on the card, in order.
async fn segments(camera: &BareCamera) -> Vec<String> {
    let found = camera.run(&format!("cd {CARD}/recordings 2>/dev/null && find . -name '*.mp4' -size +0")).await;
    let mut found: Vec<String> = found.lines().map(|line| line.trim().trim_start_matches("./").to_owned()).collect();
    found.sort_by_key(|name| name.rsplit('-').next().map(str::to_owned));
    found
}

/// The recordings on the card, which the agent does not see.
async fn copied(camera: &BareCamera, cards: Cards) -> BTreeMap<String, Vec<u8>> {
    let mount = format!("mkdir -p /tmp/card && mount -t {} -o ro /dev/vdc /tmp/card && cd /tmp/card/recordings", cards.name());
    let each = "for f in $(find . -name '*.mp4'); do echo \"@$f\"; base64 $f; done; cd /; umount /tmp/card";
    let said = camera.run(&format!("{mount} && {each}")).await;
    let mut files = BTreeMap::new();
    for file in said.split('@').filter(|file| file.starts_with("./")) {
        let (name, text) = file.split_once('\n').expect("a name, then the file");
        let text: String = text.split_whitespace().collect();
        let bytes = STANDARD.decode(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        files.insert(name.trim_start_matches("./").to_owned(), bytes);
    }
    assert!(!files.is_empty(), "nothing on the card: {}", said.chars().take(500).collect::<String>());
    files
}
