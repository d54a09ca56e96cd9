//! Documents as cameras send them, and as none should. The ones of cameras are those that `fuzz/corpus/onvif` begins with.

use proptest::prelude::*;

use super::*;

macro_rules! kept {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/onvif/", $name)).as_slice()
    };
}

/// What a document tells, which has no fault.
fn told(document: &[u8]) -> Vec<Told> {
    let read = read(document);
    assert_eq!(read.fault, None);
    read.notices.iter().map(|notice| notice.told).collect()
}

/// A document with one message: its topic, the attributes of `tt:Message`, and the data.
fn message(topic: &str, attributes: &str, data: &str) -> String {
    format!(
        "<tt:MetadataStream><tt:Event><n:NotificationMessage><n:Topic>{topic}</n:Topic><n:Message><tt:Message {attributes}>\
         <tt:Source><tt:SimpleItem Name=\"Source\" Value=\"0\"/></tt:Source><tt:Data>{data}</tt:Data>\
         </tt:Message></n:Message></n:NotificationMessage></tt:Event></tt:MetadataStream>"
    )
}

fn state(value: &str) -> String {
    format!("<tt:SimpleItem Name=\"State\" Value=\"{value}\"/>")
}

#[test]
fn axis_says_motion_alarm_with_numbers_and_elements_that_are_closed_apart() {
    assert_eq!(told(kept!("axis")), [Told::Moves]);
    assert_eq!(told(kept!("axis-vmd")), [Told::Still], "an application of its own");
}

#[test]
fn hikvision_says_cell_motion_in_a_stream_with_another_capital() {
    assert_eq!(told(kept!("hikvision")), [Told::Moves]);
}

#[test]
fn dahua_says_several_things_in_one_document_with_values_before_names() {
    let read = read(kept!("dahua"));
    assert_eq!(read.notices.iter().map(|notice| notice.told).collect::<Vec<_>>(), [Told::Still, Told::Moves]);
    assert_ne!(read.notices[0].detector, read.notices[1].detector);
}

#[test]
fn bosch_says_motion_in_a_region_beside_objects_without_a_prefix() {
    assert_eq!(told(kept!("bosch")), [Told::Moves]);
}

#[test]
fn hanwha_says_motion_by_a_topic_of_its_own_with_prefixes_of_a_generator() {
    assert_eq!(told(kept!("hanwha")), [Told::Still]);
}

#[test]
fn tapo_says_people_and_a_hand_at_the_camera_is_no_motion() {
    assert_eq!(told(kept!("tapo")), [Told::Moves]);
}

#[test]
fn a_message_without_a_state_is_a_moment() {
    assert_eq!(told(kept!("line-crossed")), [Told::Moment], "an object's number is no state");
    assert_eq!(told(message("tns1:RuleEngine/LineDetector/Crossed", "PropertyOperation=\"Initialized\"", "").as_bytes()), []);
}

#[test]
fn a_detector_is_the_same_whatever_its_prefixes_and_another_by_its_source() {
    let detector = |document: String| read(document.as_bytes()).notices[0].detector;
    let one = message("tns1:VideoSource/MotionAlarm", "", &state("true"));
    let renamed = one.replace("tns1:", "topics:").replace("n:", "wsnt:").replace("tt:", "");
    assert_eq!(detector(one.clone()), detector(renamed));
    assert_eq!(detector(one.clone()), detector(one.replace("true", "false")));
    assert_ne!(detector(one.clone()), detector(one.replace("Value=\"0\"", "Value=\"1\"")));
    assert_ne!(detector(one.clone()), detector(one.replace("VideoSource/MotionAlarm", "RuleEngine/CellMotionDetector/Motion")));
}

#[test]
fn states_are_read_in_every_form_and_others_tell_nothing() {
    let of = |value: &str| told(message("tns1:VideoSource/MotionAlarm", "PropertyOperation=\"Changed\"", &state(value)).as_bytes());
    for value in ["true", "1", "TRUE", " true "] {
        assert_eq!(of(value), [Told::Moves], "{value}");
    }
    for value in ["false", "0", "False"] {
        assert_eq!(of(value), [Told::Still], "{value}");
    }
    for value in ["", "2", "yes", "&unknown;"] {
        assert_eq!(of(value), [], "{value}");
    }
    assert_eq!(told(kept!("deleted")), [Told::Still], "a rule that is gone sees nothing");
}

#[test]
fn what_is_no_motion_is_passed_over() {
    for topic in ["tns1:Device/Trigger/DigitalInput", "tns1:VideoSource/GlobalSceneChange/ImagingService", "tns1:Media/ProfileChanged", ""]
    {
        assert_eq!(told(message(topic, "", &state("true")).as_bytes()), [], "{topic}");
    }
    assert_eq!(told(kept!("objects-only")), []);
    assert_eq!(told(kept!("long-topic")), [], "a topic that is too long is none");
}

#[test]
fn cdata_and_character_references_are_text_and_no_entity_is_expanded() {
    assert_eq!(told(kept!("cdata-and-entities")), [Told::Moves]);
}

#[test]
fn what_is_complete_counts_whatever_follows_it() {
    let cut = read(kept!("cut-short"));
    assert_eq!((cut.notices.len(), cut.fault), (0, Some("is cut short")));
    let cut = read(kept!("cut-short-behind-a-message"));
    assert_eq!((cut.notices[0].told, cut.notices.len()), (Told::Still, 1));
    assert!(cut.fault.is_some());
    assert_eq!(read(kept!("mismatched")), Document { notices: Vec::new(), fault: Some("is not well-formed XML") });
}

#[test]
fn what_is_no_xml_is_named() {
    for garbage in [kept!("gzip"), kept!("exi"), b"", b"motion", b"\xff\xfe<\0a\0/\0>\0", b"<", b"{\"event\":\"motion\"}"] {
        let read = read(garbage);
        assert!(read.notices.is_empty() && read.fault.is_some(), "{}: {read:?}", garbage.escape_ascii());
    }
}

#[test]
fn depth_and_messages_are_bounded_and_long_documents_are_quick() {
    assert_eq!(read(kept!("deep")).fault, Some("has elements within elements without end"));
    assert_eq!(told(kept!("many-messages")).len(), MOST_NOTICES);
    assert_eq!(told(kept!("many-attributes")), []);
    let bound = super::super::LONGEST_DOCUMENT;
    for piece in ["<a>", "<a b='", "&a;", "<![CDATA[", "<!--", "<a x='1'/>", "]]>", "<NotificationMessage><Topic>Motion"] {
        let hostile = format!("<MetadataStream>{}", piece.repeat(bound / piece.len()));
        assert!(read(hostile.as_bytes()).fault.is_some(), "{piece}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(<|</|/>|>|Topic|NotificationMessage|Motion|Data|SimpleItem| Name=\"State\"| Value=\"1\"|&|;|\\PC){0,40}") {
        read(text.as_bytes());
    }
}
