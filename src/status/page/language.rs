//! The page's words in English and French, and how it writes sizes, spans and times in each. The sentences of conditions are not
//! here: they are words of the log, and stay English.

use std::cmp::Reverse;

use http::{HeaderMap, header::ACCEPT_LANGUAGE};
use jiff::{Timestamp, Unit};

use crate::status::span::span;

/// The longest `Accept-Language` that is read, in bytes. Browsers send less than two hundred.
const LONGEST_ACCEPT_LANGUAGE: usize = 1_000;

macro_rules! words {
    ($($name:ident: $english:literal | $french:literal;)*) => {
        /// Every word of the page in one language. `{}` stands for what [`fill`] puts there.
        #[derive(Debug)]
        pub(in crate::status) struct Words {
            /// For `<html lang>`.
            pub lang: &'static str,
            $(pub $name: &'static str,)*
        }

        static ENGLISH: Words = Words { lang: "en", $($name: $english,)* };
        static FRENCH: Words = Words { lang: "fr", $($name: $french,)* };
        #[cfg(test)]
        const PAIRS: &[(&str, &str)] = &[$(($english, $french)),*];
    };
}

words! {
    skip: "Skip to the content" | "Aller au contenu";
    lost: "Not connected to the agent since" | "Pas de connexion à l’agent depuis";
    agent_alone: "This page comes from the camera itself." | "Cette page vient de la caméra elle-même.";
    up: "up {}" | "en marche depuis {}";

    no_plan: "No plan" | "Aucune offre";
    lead_unbound: "The camera is not bound to an account. Nothing leaves it." | "La caméra n’est associée à aucun compte. Rien n’en sort.";
    lead_closed: "Nothing may leave the camera now." | "Rien ne peut sortir de la caméra pour le moment.";
    lead_held_up: "Uploads wait." | "Les envois attendent.";
    lead_sending: "Uploading. {} in flight, {} waiting." | "Envoi en cours : {} en route, {} en attente.";
    lead_waiting: "Clips waiting for upload: {}." | "Clips en attente d’envoi : {}.";
    lead_idle: "No clip waits to be uploaded." | "Aucun clip n’attend d’être envoyé.";
    because: "Why:" | "Raison :";
    what_to_do: "What to do:" | "Que faire :";

    wrong: "Conditions" | "Anomalies";
    nothing_wrong: "Nothing is wrong." | "Aucune anomalie.";
    warning: "Warning" | "Avertissement";
    error: "Error" | "Erreur";
    since: "since" | "depuis";

    live: "Live view" | "En direct";
    live_label: "Live picture of the camera" | "Image en direct de la caméra";
    live_pause: "Pause" | "Pause";
    live_play: "Play" | "Lecture";
    live_unmute: "Sound on" | "Activer le son";
    live_mute: "Sound off" | "Couper le son";
    live_begins: "The picture begins with the next keyframe." | "L’image commence avec la prochaine image clé.";
    live_still: "This browser does not play this video: one picture every few seconds." | "Ce navigateur ne lit pas cette vidéo : une image toutes les quelques secondes.";

    motion: "Motion" | "Mouvement";
    no_motion: "No event yet." | "Aucun événement.";
    motion_counts: "Since the start: events {}, clips recorded {}, not allowed by the plan {}, missed {}" | "Depuis le démarrage : événements {}, clips enregistrés {}, refusés par l’offre {}, manqués {}";
    ago: "{} ago" | "il y a {}";
    picture_of: "Picture of the event" | "Image de l’événement";
    became_running: "being recorded" | "enregistrement en cours";
    became_recorded: "recorded" | "enregistré";
    became_recorded_many: "recorded in {} clips" | "enregistré en {} clips";
    became_not_allowed: "no clip: the plan does not allow one now" | "pas de clip : l’offre n’en permet pas maintenant";
    became_missed: "missed: see the condition events_missed" | "manqué : voir l’anomalie events_missed";
    became_erased: "erased by a change of plan" | "effacé par un changement d’offre";
    became_ended: "no clip" | "pas de clip";

    switches: "Last switches" | "Derniers changements";
    no_switch: "None on record." | "Aucun connu.";
    started: "Agent {} started" | "Agent {} démarré";
    after_kill: " after a crash or a kill" | " après un plantage ou un arrêt forcé";
    after_power_cut: " after a power cut or a reset" | " après une coupure de courant ou un redémarrage";
    stopped: "Agent stopped" | "Agent arrêté";
    lasted: "for {}:" | "pendant {} :";
    times: "{} times" | "{} fois";
    time_unknown: "time unknown, {} after boot" | "heure inconnue, {} après le démarrage";
    received: "received" | "reçu";
    due: "due" | "échéance";
    cut: "cut" | "coupé";
    written: "written" | "écrit";
    acknowledged: "acknowledged" | "acquitté";
    reported: "reported" | "rapporté";
    bytes_after: "{} bytes after the cut" | "{} octets après la coupure";
    transfers_cut: "transfers aborted: {} in {} µs" | "envois interrompus : {} en {} µs";
    clips_erased: "erased: {}" | "effacés : {}";

    plan: "Plan" | "Offre";
    why: "Why" | "Raison";
    may_leave: "May leave" | "Peut sortir";
    clips_to: "clips to {} s and {} lines, {} s apart" | "clips de {} s et {} lignes au plus, à {} s d’intervalle";
    no_clips: "no clips" | "aucun clip";
    snapshots: "snapshots" | "instantanés";
    no_snapshots: "no snapshots" | "pas d’instantanés";
    kept: "Kept in the cloud" | "Gardé dans le cloud";
    next: "Next" | "Ensuite";
    next_none: "no change known" | "aucun changement connu";
    next_at: "{} in {}" | "{} dans {}";
    lease: "Lease" | "Bail";
    lease_left: "{} left" | "encore {}";
    lease_ended: "ended" | "terminé";
    none: "none" | "aucun";
    document: "Document" | "Document";
    on_flash: "on flash" | "en flash";
    not_on_flash: "not on flash yet" | "pas encore en flash";
    order: "Order" | "Commande";

    uploads: "Uploads" | "Envois";
    transfer: "Clip {}" | "Clip {}";
    no_transfer: "No clip is being sent." | "Aucun clip en route.";
    memory: "Waiting in memory" | "En attente en mémoire";
    flash: "Waiting on flash" | "En attente en flash";
    flash_today: "Written to flash today" | "Écrit en flash aujourd’hui";
    of: "{} of {}" | "{} sur {}";
    stored: "Stored" | "Envoyés";
    erased: "Erased" | "Effacés";
    dropped: "Dropped" | "Abandonnés";
    clip: "1 clip, {}" | "1 clip, {}";
    clips: "{} clips, {}" | "{} clips, {}";
    last_fault: "Last fault" | "Dernier échec";
    pace: "Pace" | "Débit";
    per_second: "{}/s" | "{}/s";
    uploader: "Vendor’s uploader" | "Programme d’envoi du fabricant";

    camera: "Camera" | "Caméra";
    picture: "Picture" | "Image";
    second_picture: "Smaller picture" | "Petite image";
    frames: "{} frames, {} lost" | "{} images, {} perdues";
    sound: "Sound" | "Son";
    card: "SD card" | "Carte SD";
    recorded: "Recorded" | "Enregistré";

    link: "Link" | "Liaison";
    broker: "Broker" | "Broker";
    connected: "connected" | "connecté";
    not_connected: "not connected" | "pas connecté";
    confirmed: "plan confirmed" | "offre confirmée";
    not_confirmed: "plan not confirmed yet" | "offre pas encore confirmée";
    failing: "Failing" | "Échec";
    connections: "Connections" | "Connexions";

    device: "Device" | "Appareil";
    certificate: "Certificate" | "Certificat";
    days_left: "{} days left, until {}" | "encore {} jours, jusqu’au {}";
    clock: "Clock" | "Horloge";
    clock_confirmed: "confirmed" | "confirmée";
    clock_not_confirmed: "not confirmed since boot" | "pas confirmée depuis le démarrage";
    process: "Process" | "Processus";
    agent: "Agent" | "Agent";

    bytes: "bytes" | "octets";
    kilobytes: "kB" | "ko";
    megabytes: "MB" | "Mo";
    gigabytes: "GB" | "Go";
    days: "days" | "jours";
}

/// What the documents say in one word: code, English, French.
const CODES: [(&str, &str, &str); 30] = [
    ("subscribed", "subscribed", "abonnement"),
    ("upgraded", "upgraded", "passage à une offre supérieure"),
    ("downgraded", "downgraded", "passage à une offre inférieure"),
    ("cancelled", "cancelled", "résiliation"),
    ("renewed", "renewed", "renouvellement"),
    ("trial_started", "trial started", "début de l’essai"),
    ("trial_ended", "trial ended", "fin de l’essai"),
    ("payment_failed", "payment failed", "paiement refusé"),
    ("payment_recovered", "payment recovered", "paiement rétabli"),
    ("refunded", "refunded", "remboursement"),
    ("seat_limit", "too many cameras for the plan", "trop de caméras pour l’offre"),
    ("bound", "bound", "associée"),
    ("unbound", "not bound", "non associée"),
    ("free", "free", "gratuit"),
    ("paid", "paid", "payant"),
    ("held", "held", "retenu"),
    ("document", "by a document", "par un document"),
    ("next", "as announced", "comme annoncé"),
    ("lease", "the lease ended", "fin du bail"),
    ("boot", "at the start", "au démarrage"),
    ("link", "the connection was lost", "connexion perdue"),
    ("confirmed", "the cloud confirmed it", "confirmé par le cloud"),
    ("refused", "the cloud refused a clip", "clip refusé par le cloud"),
    ("state_lost", "the state was unreadable", "état illisible"),
    ("factory_reset", "factory reset", "réinitialisation"),
    ("time", "the clock was corrected", "horloge corrigée"),
    ("motion", "motion", "mouvement"),
    ("manual", "by hand", "à la main"),
    ("snapshot", "snapshot", "instantané"),
    ("none", "none", "aucun"),
];

impl Words {
    /// Those that the browser prefers (`Accept-Language`, RFC 9110): the greatest weight, of equal weights the first named.
    /// English if it names neither, or too much.
    pub(in crate::status) fn of(headers: &HeaderMap) -> &'static Self {
        let asked = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if asked.len() > LONGEST_ACCEPT_LANGUAGE {
            return &ENGLISH;
        }
        let [english, french] = ["en", "fr"].map(|lang| preference(asked, lang));
        if french > english { &FRENCH } else { &ENGLISH }
    }

    /// A code of the documents in words; one to come stays as it is.
    pub(super) fn code<'a>(&self, code: &'a str) -> &'a str {
        let known = CODES.iter().find(|(known, ..)| *known == code);
        known.map_or(code, |(_, english, french)| if self.lang == "fr" { french } else { english })
    }

    pub(super) fn size(&self, bytes: u64) -> String {
        let (number, unit) = match bytes {
            0..10_000 => (bytes, self.bytes),
            10_000..10_000_000 => (bytes / 1_000, self.kilobytes),
            10_000_000..10_000_000_000 => (bytes / 1_000_000, self.megabytes),
            _ => (bytes / 1_000_000_000, self.gigabytes),
        };
        // U+00A0: a number stays with its unit.
        format!("{number}\u{a0}{unit}")
    }

    pub(super) fn clips(&self, clips: u32, bytes: u64) -> String {
        let size = self.size(bytes);
        if clips == 1 { fill(self.clip, &[&size]) } else { fill(self.clips, &[&clips.to_string(), &size]) }
    }

    pub(super) fn span(&self, seconds: u64) -> String {
        let (number, unit) = span(seconds, self.days);
        format!("{number}\u{a0}{unit}")
    }
}

/// How much an `Accept-Language` wants a language: its weight in thousandths, then how early it is named. A range that is named
/// counts ahead of `*`, which stands for all others; what is not as RFC 9110 has it counts for nothing.
fn preference(asked: &str, lang: &str) -> Option<(u16, Reverse<usize>)> {
    let ranges = |wanted: fn(&str, &str) -> bool| {
        let weighed = asked.split(',').enumerate().filter_map(move |(place, item)| {
            let (range, weight) = item.split_once(';').unwrap_or((item, "q=1"));
            wanted(range.trim(), lang).then_some((thousandths(weight.trim())?, Reverse(place)))
        });
        weighed.max()
    };
    let named = ranges(|range, lang| range.split('-').next().is_some_and(|primary| primary.eq_ignore_ascii_case(lang)));
    named.or_else(|| ranges(|range, _| range == "*")).filter(|(weight, _)| *weight > 0)
}

/// The weight `q=0.8`: 0 to 1 with at most three decimals.
fn thousandths(weight: &str) -> Option<u16> {
    let number = weight.strip_prefix(['q', 'Q'])?.strip_prefix('=')?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1_000),
        _ => None,
    }
}

/// Puts each part in the place of a `{}`.
pub(super) fn fill(template: &str, parts: &[&str]) -> String {
    let mut parts = parts.iter();
    let mut filled = String::new();
    for (n, piece) in template.split("{}").enumerate() {
        if n > 0 {
            filled += parts.next().copied().unwrap_or_default();
        }
        filled += piece;
    }
    filled
}

/// `2026-12-01 21:15:12 UTC`.
pub(super) fn moment(at: Timestamp) -> String {
    let at = at.round(Unit::Second).unwrap_or(at).to_string();
    at.replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asked(languages: &str) -> &'static str {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_str(languages).unwrap());
        Words::of(&headers).lang
    }

    #[test]
    fn the_language_of_the_greatest_weight_counts() {
        assert_eq!(Words::of(&HeaderMap::new()).lang, "en");
        for (languages, lang) in [
            ("fr-CA,fr;q=0.9,en;q=0.8", "fr"),
            ("de-DE,fr;q=0.7,en;q=0.3", "fr"),
            ("en-GB,fr", "en"),
            ("en-CA, fr", "en"),
            ("fr, en-CA", "fr"),
            ("FR", "fr"),
            ("fr;q=0.2, en;q=0.9", "en"),
            ("en;q=0.2, fr ; Q=0.25", "fr"),
            ("fr;q=0.1, fr-CA;q=0.8, en;q=0.5", "fr"),
            // All others, of which English is the first.
            ("*", "en"),
            ("de,*", "en"),
            ("*, fr;q=0.9", "en"),
            ("fr, *;q=0.5", "fr"),
            ("en;q=0, *", "fr"),
            ("en;q=0", "en"),
        ] {
            assert_eq!(asked(languages), lang, "{languages}");
        }
    }

    #[test]
    fn what_is_no_language_range_counts_for_nothing() {
        for languages in [
            "",
            ",;,",
            "français",
            "q=1",
            "fr;",
            "fr;q",
            "fr;q=",
            "fr;q=1.5",
            "fr;q=2",
            "fr;q=-1",
            "fr;q=0.9999",
            "fr;q=nan",
            "fr;q=0.+9",
            "fr;level=1",
            "frx",
            "f",
            "-fr",
            "fr;q=0",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_bytes(languages.as_bytes()).unwrap());
            assert_eq!(Words::of(&headers).lang, "en", "{languages}");
        }
        assert_eq!(asked("fr;q=7, fr-FR;q=0.5, en;q=0.4"), "fr", "the rest still counts");
        let long = |length: usize| format!("fr,{}", "x".repeat(length - 3));
        assert_eq!((asked(&long(LONGEST_ACCEPT_LANGUAGE)), asked(&long(LONGEST_ACCEPT_LANGUAGE + 1))), ("fr", "en"));
    }

    #[test]
    fn both_languages_have_the_same_gaps() {
        for (english, french) in PAIRS {
            assert_eq!(english.matches("{}").count(), french.matches("{}").count(), "{english}: {french}");
        }
    }

    #[test]
    fn gaps_are_filled_in_order_and_codes_to_come_stay() {
        assert_eq!(fill("{} of {}", &["1", "2"]), "1 of 2");
        assert_eq!(fill("{}", &[]), "");
        assert_eq!((FRENCH.code("cancelled"), ENGLISH.code("gold_rush")), ("résiliation", "gold_rush"));
        assert_eq!(moment("2026-12-01T21:15:12.4Z".parse().unwrap()), "2026-12-01 21:15:12 UTC");
        assert_eq!((FRENCH.size(20_000), ENGLISH.span(180)), ("20\u{a0}ko".into(), "3\u{a0}min".into()));
    }
}
