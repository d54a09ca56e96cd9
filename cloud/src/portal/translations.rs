//! The strings of the pages: one table per language. All tables have the same keys, because reading one with a missing
//! key fails. The codes of documents and reports have their names here, too.

use std::{collections::BTreeMap, sync::LazyLock};

use care_protocol::Report;
use serde::{Deserialize, Serialize};

/// Names for the codes in documents and reports.
pub type Names = BTreeMap<String, String>;

macro_rules! table {
    ($($key:ident)*) => {
        /// Every string of one language.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs, reason = "the English table says what each is")]
        pub struct Translations {
            $(pub $key: String,)*
            pub months: [String; 12],
            pub plan: Names,
            pub mode: Names,
            pub status: Names,
            pub reason: Names,
            pub outcome: Names,
            pub channel: Names,
            pub clip_kind: Names,
            pub entry: Names,
            pub order_state: Names,
            pub refusal: Names,
            pub fault: Names,
            pub fault_says: Names,
        }
    };
}

table! {
    // Around every page.
    skip pages language live not_live sign_out footer you_are_here back not_done not_found no_such_page form_too_old too_often
    // Signing in.
    sign_in tp_link_id password wrong_credentials demo_title demo_text demo_owner demo_engineer
    // Times and sizes.
    just_now seconds_ago minutes_ago hours_ago days_ago history_none hours_one hours_other days_one days_other clips_one clips_other
    uploads_one uploads_other times
    // Cameras.
    cameras camera upload history clips clips_kept clips_and_size none no_camera no_picture picture_of clip_of broker_stopped silent was_reset
    seatless changes_to uploading of_size last_report judgement no_report said choose_plan change_plan cancel_subscription order bought_in
    trial_runs payment_grace payment_hold card_declined card_declined_here apart apart_text seats seats_taken seat_free seat_none_for
    // One camera.
    playback no_clips clip_gone kept_text clip_text being_filmed
    // Plans.
    plans plans_for cycle monthly annual per_month per_year current_plan feature_history feature_clips feature_cooldown
    feature_height feature_snapshots feature_one feature_seats subscribe_to upgrade_to downgrade_to start_trial pay_now from_the_store
    included other_cycle credit_available
    // Confirming.
    cancel_title downgrade_title takes_effect immediately ends_premium ends_plus ends_downgrade plan_changes erases erases_nothing
    cannot_be_recovered gives_refund gives_credit gives_nothing pays_out_credit what_is_erased new_history erased stays keep_plan remove downgrade
    // Orders.
    orders no_orders order_what whole_account only_camera period entries date entry_title amount
    // Support.
    support support_text support_copy_text last_order all_orders last_error no_error error_line camera_line copy copied
    // Switches.
    switches to document timeline clicked signed published at_the_broker camera_applied camera_refused camera_is_further waiting cut
    cut_in store_after erased_on_camera camera_said click_to_report next plan_at refund credit
    // Engineers.
    engineers click_p50 click_p90 click_count click_text no_clicks broker broker_runs broker_stands broker_external cameras_online
    last_heard plan_title status_title keyset simulated clips_stored not_reported all_reported faults faults_text on_camera documents reports account position reason_title
    outcome_title mode_title cause when transfers_cut cut_time bytes_after clips_erased all_cameras
}

/// In English.
pub static ENGLISH: LazyLock<Translations> = LazyLock::new(|| read(include_str!("../../text/en.toml")));
/// In French.
pub static FRENCH: LazyLock<Translations> = LazyLock::new(|| read(include_str!("../../text/fr.toml")));

fn read(table: &str) -> Translations {
    toml::from_str(table).expect("the tables are part of the program and have their test")
}

/// A pattern with its `{names}` filled in.
pub fn fill(pattern: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => text.push_str(value),
            None => text.push_str(name),
        }
        rest = after;
    }
    text + rest
}

/// How a camera judged a document: the outcome, and the reason unless it repeats the outcome.
pub fn judgement(t: &Translations, report: &Report) -> String {
    let outcome = name_of(&t.outcome, report.outcome.as_str());
    if report.reason == report.outcome.as_str() {
        return outcome;
    }
    fill(&t.judgement, &[("outcome", &outcome), ("reason", &name_of(&t.reason, &report.reason))])
}

/// The name of a code; a code without a name is shown itself.
pub fn name_of(names: &Names, code: &str) -> String {
    names.get(code).cloned().unwrap_or_else(|| code.replace('_', " "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use care_protocol::{Channel, Mode, Outcome, Reason};
    use serde_json::Value;

    use super::*;
    use crate::portal::language::Language;

    /// Every string of a language by its path.
    fn strings(language: Language) -> BTreeMap<String, String> {
        fn walk(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
            match value {
                Value::String(text) => drop(found.insert(path.to_owned(), text.clone())),
                Value::Object(fields) => fields.iter().for_each(|(key, value)| walk(&format!("{path}/{key}"), value, found)),
                Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| walk(&format!("{path}/{i}"), value, found)),
                other => panic!("{path} is {other}"),
            }
        }
        let mut found = BTreeMap::new();
        walk("", &serde_json::to_value(language.translations()).unwrap(), &mut found);
        found
    }

    fn placeholders(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).map(|rest| rest.split_once('}').expect("every { has its }").0).collect()
    }

    #[test]
    fn every_language_says_everything() {
        let english = strings(Language::English);
        assert!(english.len() > 200);
        for language in Language::ALL {
            let table = strings(language);
            assert!(table.keys().eq(english.keys()), "{:?}", table.keys().filter(|key| !english.contains_key(*key)).collect::<Vec<_>>());
            for (key, text) in &table {
                assert!(!text.trim().is_empty(), "{key} of {language:?} is empty");
                assert_eq!(placeholders(text), placeholders(&english[key]), "{key} of {language:?}");
            }
        }
    }

    #[test]
    fn what_is_the_same_in_french_is_meant_to_be() {
        let (english, french) = (strings(Language::English), strings(Language::French));
        let same: Vec<_> =
            english.iter().filter(|(key, text)| french[*key] == **text).map(|(key, _)| key.trim_start_matches('/')).collect();
        let meant = [
            "channel/app_store",
            "channel/play_store",
            "clips",
            "click_p90",
            "clips_one",
            "clips_other",
            "clips_and_size",
            "document",
            "order_what",
            "pages",
            "plan/plus",
            "plan/premium",
            "cause",
            "date",
            "mode_title",
            "position",
        ];
        for key in same {
            assert!(meant.contains(&key), "{key} is not translated");
        }
    }

    #[test]
    fn french_punctuation_does_not_break_from_its_word() {
        let table = strings(Language::French);
        assert!(table.values().any(|text| text.contains("\u{a0}:")));
        for (key, text) in table {
            for wrong in [" :", " ;", " !", " ?", " %", "« ", " »", "'"] {
                assert!(!text.contains(wrong), "{key} has {wrong:?}: {text}");
            }
        }
    }

    #[test]
    fn every_code_has_its_name() {
        for language in Language::ALL {
            use Outcome::{Applied, Conflict, Duplicate, Rejected, Stale};
            let t = language.translations();
            let named =
                |names: &Names, codes: &[&str]| codes.iter().for_each(|code| assert!(names.contains_key(*code), "{code} in {language:?}"));
            named(&t.reason, &Reason::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>());
            named(&t.outcome, &[Applied, Duplicate, Stale, Conflict, Rejected].map(Outcome::as_str));
            named(&t.mode, &[Mode::Unbound, Mode::Free, Mode::Paid, Mode::Held].map(Mode::as_str));
            named(&t.channel, &Channel::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_pattern_is_filled_once_and_a_value_is_no_pattern() {
        assert_eq!(fill("{a} and {b}", &[("a", "{b}"), ("b", "2")]), "{b} and 2");
        assert_eq!(fill("no name", &[]), "no name");
    }
}
