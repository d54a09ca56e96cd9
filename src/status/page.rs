//! The document as a page: one table, no script, read again every two seconds.

use super::StatusDocument;

/// The page.
pub(super) fn render(document: &StatusDocument) -> String {
    let mut rows = String::new();
    for (name, value) in document.rows() {
        let class = if name == "warning" { " class=\"warning\"" } else { "" };
        rows += &format!("<tr{class}><th>{}</th><td>{}</td></tr>\n", escape(name), escape(&value));
    }
    let device = escape(document.device.as_str());
    let mode = document.mode;
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta http-equiv=\"refresh\" content=\"2\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{device}: {mode}</title>\n<style>{STYLE}</style>\n\
         <h1>{device} <span class=\"{mode}\">{mode}</span></h1>\n<table>\n{rows}</table>\n\
         <p><a href=\"/status.json\">status.json</a></p>\n</html>\n"
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1c2430}\
h1{font-size:1.3rem}h1 span{font-size:.9rem;padding:.15rem .6rem;border-radius:1rem;background:#dde3ea}\
h1 .paid{background:#cfeedd}h1 .free{background:#d8e6fb}h1 .held{background:#fbe7c2}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-top:1px solid #dde3ea}\
th{width:8rem;font-weight:600;color:#556}.warning td,.warning th{background:#fdf0d5}";

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
        escaped
    })
}
