//! Renders the status document as a page: the conditions, most severe first, then one table. It has no script and
//! reloads every two seconds.

use super::StatusDocument;
use crate::conditions::Condition;

/// The page.
pub(super) fn render(document: &StatusDocument) -> String {
    let mut rows = String::new();
    for (name, value) in document.rows() {
        rows += &format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(name), escape(&value));
    }
    let device = escape(document.device.as_str());
    let mode = document.mode;
    let wrong = conditions(&document.conditions);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta http-equiv=\"refresh\" content=\"2\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{device}: {mode}</title>\n<style>{STYLE}</style>\n\
         <main>\n<h1>{device} <span class=\"{mode}\">{mode}</span></h1>\n{wrong}<table>\n{rows}</table>\n\
         <p><a href=\"/status.json\">status.json</a></p>\n</main>\n</html>\n"
    )
}

/// Renders the conditions, each with its advice. Severity is shown as a word, not only as a colour.
fn conditions(conditions: &[Condition]) -> String {
    let heading = match conditions.len() {
        0 => return "<p class=\"fine\">Nothing is wrong.</p>\n".to_owned(),
        1 => "1 condition".to_owned(),
        many => format!("{many} conditions"),
    };
    let mut items = String::new();
    for Condition { name, since, severity, sentence, advice } in conditions {
        items += &format!(
            "<li class=\"{severity}\"><p><b>{severity}</b> <code>{}</code> <small>since <time datetime=\"{since}\">{since}</time></small></p>\n\
             <p>{}</p>\n<p class=\"advice\">{}</p></li>\n",
            escape(name),
            escape(sentence),
            escape(advice)
        );
    }
    format!("<section aria-labelledby=\"wrong\"><h2 id=\"wrong\">{heading}</h2>\n<ul>\n{items}</ul></section>\n")
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}\
h1{font-size:1.3rem}h1 span{font-size:.9rem;padding:.15rem .6rem;border-radius:1rem;background:#dde3ea}\
h1 .paid{background:#cfeedd}h1 .free{background:#d8e6fb}h1 .held{background:#fbe7c2}\
h2{font-size:1rem;margin:1.2rem 0 .5rem}ul{list-style:none;margin:0 0 1.5rem;padding:0}\
li{margin:0 0 .6rem;padding:.55rem .9rem;border-left:.3rem solid #c77700;border-radius:.25rem;background:#fdf4e3}\
li.error{border-color:#b3261e;background:#fcecea}li p{margin:0;overflow-wrap:anywhere}li b{text-transform:capitalize;color:#8a5200}\
li.error b{color:#b3261e}code{font:.85rem ui-monospace,monospace}small{color:#556}.advice{color:#3f4a5a}.fine{color:#1d6b3f}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-top:1px solid #dde3ea;\
overflow-wrap:anywhere}\
th{width:8rem;font-weight:600;color:#556}";

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
