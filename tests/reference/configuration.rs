//! The reference of the configuration: the tables of docs/configuration.md, the manual page and the JSON Schema, made of the
//! agent's table of keys and of their meanings.

use std::{collections::BTreeSet, fmt::Write as _};

use kasa_care_agent::config::keys::{KEYS, Key, Kind, Preset, SECTIONS, Takes};
use roff::{Roff, bold, roman};
use serde_json::{Map, Value, json};

use crate::{
    check_or_write,
    manual::{is_good_manual, marked},
    meanings::{self, MEANINGS, Meaning},
    path,
};

const BEGIN: &str = "<!-- From here to the end of the keys: written by tests/reference, from src/config/keys.rs and its meanings.rs. -->\n";
const END: &str = "<!-- End of the keys. -->\n";

fn meaning(key: &Key) -> &'static Meaning {
    let name = format!("{}.{}", key.section, key.name);
    MEANINGS.iter().find(|meaning| meaning.key == name).unwrap_or_else(|| panic!("meanings.rs has nothing about {name}"))
}

fn section_meaning(section: &str) -> &'static str {
    meanings::SECTIONS.iter().find(|(name, _)| *name == section).unwrap_or_else(|| panic!("meanings.rs has nothing about [{section}]")).1
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn default(key: &Key) -> String {
    let said = meaning(key).default;
    match key.default {
        Preset::Required => "required".to_owned(),
        Preset::RequiredForTls => "required for `mqtts://`".to_owned(),
        Preset::Number(number) => grouped(number),
        Preset::Truth(truth) => format!("`{truth}`"),
        Preset::Text(text) => format!("`{text}`"),
        Preset::Absent if said.is_empty() => "none".to_owned(),
        Preset::Absent | Preset::Derived => {
            assert!(!said.is_empty(), "meanings.rs has no default of {}.{}", key.section, key.name);
            said.to_owned()
        }
    }
}

/// Powers of two as such: nobody reads the others.
fn bound(number: u64) -> String {
    match number {
        n if n > 1 << 30 && n.is_power_of_two() => format!("2^{}", n.ilog2()),
        n if n > 1 << 30 && (n + 1).is_power_of_two() => format!("2^{} − 1", (n + 1).ilog2()),
        n if n > 1 << 30 && n % 10 == 0 && (n / 10).is_power_of_two() => format!("10 × 2^{}", (n / 10).ilog2()),
        n => grouped(n),
    }
}

fn range(key: &Key) -> String {
    match key.kind {
        Kind::Integer(from, to) => format!("{} to {}", bound(from), bound(to)),
        Kind::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
        Kind::Boolean => "`true`, `false`".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Path => "a path".to_owned(),
        Kind::List => "a list".to_owned(),
        Kind::Table => "a table".to_owned(),
    }
}

fn takes(key: &Key) -> &'static str {
    match key.takes {
        Takes::AtOnce => "reload",
        Takes::NextStart => "restart",
    }
}

fn of(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

fn tables() -> String {
    let mut text = BEGIN.to_owned();
    for (section, required) in SECTIONS {
        let required = if required { " Required." } else { "" };
        write!(text, "\n**`[{section}]`** {}{required}\n\n", section_meaning(section)).unwrap();
        text += "| key | default | values | change | meaning |\n|---|---|---|---|---|\n";
        for key in of(section) {
            let (default, range, takes, meaning) = (default(key), range(key), takes(key), meaning(key).meaning);
            writeln!(text, "| `{section}.{}` | {default} | {range} | {takes} | {meaning} |", key.name).unwrap();
        }
    }
    text + "\n" + END
}

/// Markdown as plain words: without backticks, emphasis and the targets of links.
fn plain(markdown: &str) -> String {
    let mut words = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once("](") {
        let (before, shown) = before.rsplit_once('[').expect("a link begins with a bracket");
        words += before;
        words += shown;
        rest = link.split_once(')').expect("a link ends").1;
    }
    (words + rest).replace(['`', '*'], "").replace('\n', " ")
}

/// As a sentence of the schema and the manual page.
fn sentence(markdown: &str) -> String {
    let mut text = plain(markdown);
    let first = text.remove(0).to_uppercase().to_string();
    text.insert_str(0, &first);
    if text.ends_with('.') { text } else { text + "." }
}

fn schema() -> Value {
    let sections: Map<_, _> = SECTIONS.iter().map(|(section, _)| ((*section).to_owned(), section_schema(section))).collect();
    let required: Vec<_> = SECTIONS.iter().filter(|(_, required)| *required).map(|(section, _)| section).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://care.example/schemas/config.schema.json",
        "title": "Configuration of kasa-care-agent",
        "description": "The file /etc/kasa-care-agent/config.toml. docs/configuration.md explains it; kasa-care-agent check-config judges it.",
        "type": "object",
        "properties": sections,
        "required": required,
        "additionalProperties": false,
        "not": { "required": ["media", "uploader"] }
    })
}

fn section_schema(section: &str) -> Value {
    let properties: Map<_, _> = of(section).map(|key| (key.name.to_owned(), key_schema(key))).collect();
    let required: Vec<_> = of(section).filter(|key| key.default == Preset::Required).map(|key| key.name).collect();
    let mut schema = json!({
        "description": plain(section_meaning(section)), "type": "object", "properties": properties, "additionalProperties": false
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let for_tls: Vec<_> = of(section).filter(|key| key.default == Preset::RequiredForTls).map(|key| key.name).collect();
    if !for_tls.is_empty() {
        schema["if"] = json!({ "properties": { "url": { "pattern": "^mqtts:" } } });
        schema["then"] = json!({ "required": for_tls });
    }
    if section == "local_mqtt" {
        schema["dependentRequired"] = json!({ "username": ["password_file"], "password_file": ["username"] });
    }
    schema
}

fn key_schema(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Path => json!({ "type": "string", "minLength": 1 }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Kind::List => json!({ "type": "array" }),
        Kind::Table => json!({ "type": "object" }),
    };
    let fields = schema.as_object_mut().unwrap();
    if let Value::Object(form) = meanings::form(&format!("{}.{}", key.section, key.name)) {
        fields.extend(form);
    }
    match key.default {
        Preset::Number(number) => drop(fields.insert("default".to_owned(), json!(number))),
        Preset::Truth(truth) => drop(fields.insert("default".to_owned(), json!(truth))),
        Preset::Text(text) => drop(fields.insert("default".to_owned(), json!(text))),
        Preset::Required | Preset::RequiredForTls | Preset::Absent | Preset::Derived => {}
    }
    fields.insert("description".to_owned(), json!(sentence(meaning(key).meaning)));
    schema
}

fn page() -> String {
    let mut page = Roff::new();
    let version = concat!("kasa-care-agent ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["kasa-care-agent.toml", "5", "", version, "Kasa Care agent"]);
    page.control("SH", ["NAME"]);
    page.text([roman("kasa-care-agent.toml - configuration of kasa-care-agent(1)")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text(marked(
        "One TOML file, `/etc/kasa-care-agent/config.toml` or the one that `--config` names. `kasa-care-agent check-config` lists every fault of \
         it, `check-config --print` the values in effect. After a change, SIGHUP reloads it; keys marked restart take effect at the next start.",
    ));
    for (section, required) in SECTIONS {
        page.control("SH", [format!("[{section}]").as_str()]);
        let required = if required { " Required." } else { "" };
        page.text([roman(format!("{}{required}", plain(section_meaning(section))))]);
        for key in of(section) {
            page.control("TP", []);
            page.text([bold(key.name)]);
            let (default, range) = (plain(&default(key)), plain(&range(key)));
            page.text([roman(format!("{} Values: {range}. Default: {default}. Change: {}.", sentence(meaning(key).meaning), takes(key)))]);
        }
    }
    page.control("SH", ["FILES"]);
    page.text([roman("/usr/share/kasa-care-agent/config.schema.json is the JSON Schema of this file, for editors.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("kasa-care-agent"), roman("(1)")]);
    page.render()
}

#[test]
fn every_key_and_section_has_a_meaning_and_nothing_else_has() {
    let known: BTreeSet<_> = KEYS.iter().map(|key| format!("{}.{}", key.section, key.name)).collect();
    let said: BTreeSet<_> = MEANINGS.iter().map(|meaning| meaning.key.to_owned()).collect();
    assert_eq!(known, said);
    assert_eq!((MEANINGS.len(), KEYS.len()), (said.len(), known.len()), "one stands twice");
    assert_eq!(meanings::SECTIONS.map(|(section, _)| section), SECTIONS.map(|(section, _)| section));
    // A default in words stands only where the table has no value.
    for key in KEYS.iter().filter(|key| !matches!(key.default, Preset::Absent | Preset::Derived)) {
        assert_eq!(meaning(key).default, "", "{}.{}", key.section, key.name);
    }
}

#[test]
fn the_tables_of_the_configuration_s_page_are_those_of_the_code() {
    let page = std::fs::read_to_string(path("docs/configuration.md")).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/configuration.md marks where the keys begin");
    let (_, after) = rest.split_once(END).expect("docs/configuration.md marks where the keys end");
    check_or_write("docs/configuration.md", &format!("{before}{}{after}", tables()));
}

#[test]
fn the_schema_of_the_configuration_is_that_of_the_code() {
    check_or_write("schemas/config.schema.json", &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"));
}

#[test]
fn the_man_page_of_the_configuration_is_that_of_the_code() {
    let page = page();
    is_good_manual(&page);
    check_or_write("man/kasa-care-agent.toml.5", &page);
}
