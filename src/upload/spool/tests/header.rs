use super::*;
use crate::media::Progressive;

fn offered(bytes: usize) -> Progressive {
    Progressive { header: Bytes::from(vec![9; bytes]), replaces: 10 }
}

fn filmed(spool: &mut Spool, bytes: usize) -> Uuid {
    let id = begin(spool, ClipKind::Motion, 100).unwrap();
    spool.append(id, Bytes::from(vec![1; bytes]), Duration::from_secs(1), now(101));
    id
}

#[test]
fn a_header_takes_the_room_that_it_needs_and_no_more() {
    let mut spool = spool(PAID);
    let id = filmed(&mut spool, 400);
    assert!(spool.put_header(id, &offered(110), now(102)));
    spool.finish(id, Duration::from_secs(1), "00".into(), now(102));
    assert_eq!((spool.memory(), spool.held().bytes), (500, 500));
    assert!(!spool.put_header(id, &offered(110), now(103)), "it is finished");
}

#[test]
fn a_clip_with_no_room_for_its_header_keeps_its_fragments() {
    let mut spool = spool(PAID);
    let id = filmed(&mut spool, 400);
    assert!(!spool.put_header(id, &offered(611), now(102)));
    assert_eq!((spool.memory(), spool.fragment(id, 0).map(|fragment| fragment.len())), (400, Some(400)));
    assert!(spool.put_header(id, &offered(610), now(102)));
}

/// Another clip that waits gives way, as to every byte that is filmed.
#[test]
fn older_clips_give_way_to_a_header() {
    let mut spool = spool(PAID);
    let old = record(&mut spool, ClipKind::Motion, 90, 5, 500).unwrap();
    let id = filmed(&mut spool, 400);
    assert!(spool.put_header(id, &offered(310), now(102)));
    assert!(spool.ids().all(|held| held != old));
    assert_eq!(spool.memory(), 700);
}

#[test]
fn a_clip_of_which_flash_has_a_piece_or_that_is_in_parts_takes_no_header() {
    let mut growing = Spool::new(1000, 100_000, 1 << 30);
    growing.admit(admission(PAID), now(0));
    let id = filmed(&mut growing, 300);
    growing.append(id, Bytes::from(vec![1; 300]), Duration::from_secs(2), now(102));
    assert!(growing.is_growing());
    assert!(growing.takes_header(id, 10) && !growing.is_growing(), "it fits memory, and stays there");
    growing.append(id, Bytes::from(vec![1; 100]), Duration::from_secs(3), now(103));
    assert!(growing.is_growing() && matches!(growing.chore(now(102)), Ok(Chore::Grow(_))));
    assert!(!growing.takes_header(id, 10), "the flash thread writes it");

    let mut spool = spool(PAID);
    let id = filmed(&mut spool, 100);
    spool.end_part(id, "00".into(), Uuid::from_u128(7), now(102));
    spool.append(id, Bytes::from(vec![1; 100]), Duration::from_secs(2), now(102));
    assert!(!spool.takes_header(id, 10));
}
