//! Accessibility: landmarks, names, focus order and contrast, checked by script in every page and in both colour schemes.

use serde_json::Value;

use super::{
    browser::{Browser, Screen},
    stage::Stage,
};

const CAMERA: &str = "8006E5A1F0C2";

/// Everything that is wrong with a page's structure.
const STRUCTURE: &str = r#"
const wrong = [];
const visible = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== 'hidden';
const name = (e) => {
  const by = (e.getAttribute('aria-labelledby') || '').split(/\s+/).filter(Boolean).map((id) => document.getElementById(id));
  if (by.includes(null)) wrong.push(`${e.outerHTML.slice(0, 80)}: aria-labelledby names nothing`);
  return (by.map((o) => o ? o.textContent : '').join(' ') || e.getAttribute('aria-label') || (e.labels && [...e.labels].map((l) => l.textContent).join(' '))
    || e.getAttribute('alt') || e.textContent || '').trim();
};
for (const [css, least, most] of [['main', 1, 1], ['header', 1, 1], ['footer', 1, 1], ['h1', 1, 1], ['a.skip', 1, 1], ['title', 1, 1]]) {
  const n = document.querySelectorAll(css).length;
  if (n < least || n > most) wrong.push(`${n} of ${css}`);
}
if (!document.documentElement.lang) wrong.push('no language');
for (const e of document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, section, nav, article, [role=region], [role=group], table, video[controls]')) {
  if (e.nodeName === 'TABLE') { if (!e.caption && !e.closest('[aria-labelledby]')) wrong.push('a table without a name'); continue; }
  if (!e.closest('[aria-hidden=true]') && !name(e)) wrong.push(`no name: ${e.outerHTML.slice(0, 120)}`);
}
for (const e of document.querySelectorAll('img')) if (!e.hasAttribute('alt')) wrong.push(`no alt: ${e.src}`);
for (const e of document.querySelectorAll('th')) if (!e.scope) wrong.push(`a th without scope: ${e.textContent}`);
for (const e of document.querySelectorAll('[aria-describedby]')) if (!document.getElementById(e.getAttribute('aria-describedby'))) wrong.push('aria-describedby names nothing');
const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
for (const id of ids.filter((id, i) => ids.indexOf(id) !== i)) wrong.push(`two of #${id}`);
let level = 0;
for (const e of document.querySelectorAll('h1, h2, h3, h4')) {
  const n = +e.nodeName[1];
  if (n > level + 1) wrong.push(`h${level} is followed by h${n}: ${e.textContent}`);
  level = n;
}
for (const e of document.querySelectorAll('[tabindex]')) if (+e.getAttribute('tabindex') > 0) wrong.push('a tabindex above 0');
for (const e of document.querySelectorAll('[style], style, script:not([src])')) wrong.push(`in the page itself: ${e.outerHTML.slice(0, 80)}`);
for (const e of document.querySelectorAll('button, .button')) {
  const { height, width } = e.getBoundingClientRect();
  if (visible(e) && (height < 24 || width < 24)) wrong.push(`too small for a finger: ${e.outerHTML.slice(0, 80)} ${width}x${height}`);
}
return wrong;
"#;

/// Text whose contrast is too small (WCAG 2.2, 1.4.3), and controls whose border is (1.4.11).
const CONTRAST: &str = r#"
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const wrong = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || e.closest('.hidden, .skip, option, [disabled], textarea') || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  if (parseFloat(style.fontSize) === 0) continue;
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && +style.fontWeight >= 700);
  const found = ratio(rgba(style.color), ground(e));
  if (found < (large ? 3 : 4.5)) wrong.push(`${found.toFixed(2)}: ${walk.currentNode.data.trim().slice(0, 40)} (${e.className || e.nodeName})`);
}
for (const e of document.querySelectorAll('main button, main .button, input:not([type=hidden]), select, textarea')) {
  const style = getComputedStyle(e);
  const edge = Math.max(ratio(rgba(style.borderTopColor), ground(e.parentElement)), ratio(ground(e), ground(e.parentElement)));
  if (e.getClientRects().length && edge < 3) wrong.push(`${edge.toFixed(2)}: the edge of ${e.outerHTML.slice(0, 60)}`);
}
return [...new Set(wrong)];
"#;

async fn judge(browser: &Browser, path: &str) {
    browser.goto(path).await;
    assert_eq!(browser.path().await, path.split('?').next().unwrap());
    for screen in Screen::BOTH {
        browser.screen(screen).await;
        assert_eq!(browser.run(STRUCTURE).await, Value::Array(vec![]), "{path} on a {screen:?}");
        for dark in [false, true] {
            browser.dark(dark).await;
            assert_eq!(browser.run(CONTRAST).await, Value::Array(vec![]), "{path} on a {screen:?}, dark: {dark}");
        }
    }
    browser.dark(false).await;
}

#[tokio::test]
async fn every_page_has_names_landmarks_and_contrast() {
    let stage = Stage::set().await;
    stage.camera(CAMERA);
    stage.camera("CAM-2");
    stage.cloud.premium(CAMERA).await;
    stage.history(CAMERA, 10).await;
    let browser = stage.browser("en").await;
    judge(&browser, "/sign-in").await;
    stage.sign_in(&browser).await;
    let of = |page: &str| format!("/cameras/{CAMERA}{page}");
    for path in
        ["/".to_owned(), of(""), of("/plan"), of("/cancel"), of("/downgrade"), "/orders".into(), "/support".into(), "/nowhere".into()]
    {
        judge(&browser, &path).await;
    }
    browser.goto("/").await;
    browser.follow("#sign-out", "/sign-in").await;
    browser.follow("#demo-engineer", "/engineers").await;
    judge(&browser, "/engineers").await;
    browser.close().await;
}

#[tokio::test]
async fn the_checks_find_what_is_wrong() {
    let stage = Stage::set().await;
    let browser = stage.browser("en").await;
    browser.goto("/sign-in").await;
    browser.run("document.querySelector('label[for=id]').remove(); document.querySelector('#enter').textContent = '';").await;
    let found = browser.run(STRUCTURE).await;
    assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
    browser.run("document.querySelector('h1').className = 'pale'; const rules = document.styleSheets[0]; rules.insertRule('.pale { color: #ccc; }', rules.cssRules.length);").await;
    let found = browser.run(CONTRAST).await;
    assert!(found[0].as_str().is_some_and(|found| found.contains("Sign in")), "{found}");
    browser.close().await;
}

#[tokio::test]
async fn cancelling_works_by_keyboard_alone() {
    let stage = Stage::set().await;
    stage.camera(CAMERA);
    stage.cloud.premium(CAMERA).await;
    let browser = stage.browser("en").await;
    browser.goto("/sign-in").await;
    let tab = '\u{e004}';
    let enter = '\u{e007}';
    assert_eq!(browser.run("return document.activeElement.id;").await, "id", "where one types first");
    browser.run(&format!("document.activeElement.value = '{}';", stage.owner.login)).await;
    browser.press(tab).await;
    browser.run(&format!("document.activeElement.value = '{}';", stage.owner.password)).await;
    browser.press(enter).await;
    browser.wait(&format!("#cancel-{CAMERA}")).await;

    // The first stop leads past the navigation; then everything comes in the order in which it is read.
    let mut stops = Vec::new();
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0);").await;
    let cancel = format!("cancel-{CAMERA}");
    while stops.last() != Some(&cancel) {
        browser.press(tab).await;
        let stop =
            browser.run("const e = document.activeElement; return e.id || e.className || e.getAttribute('href') || e.nodeName;").await;
        stops.push(stop.as_str().unwrap().to_owned());
        assert!(stops.len() < 40, "{stops:?}");
    }
    assert_eq!(stops[0], "skip", "{stops:?}");
    let at = |wanted: &str| stops.iter().position(|stop| stop == wanted).unwrap_or_else(|| panic!("{wanted} in {stops:?}"));
    assert!(at("language-en") < at("sign-out") && at("sign-out") < at(&format!("clips-{CAMERA}")), "{stops:?}");
    assert!(at(&format!("clips-{CAMERA}")) < at(&format!("plan-{CAMERA}")), "{stops:?}");
    let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle;").await;
    assert_eq!(outline, "solid", "the focus is seen");
    browser.press(enter).await;
    browser.wait("#remove").await;
    for _ in 0..30 {
        if browser.run("return document.activeElement.id;").await == "remove" {
            break;
        }
        browser.press(tab).await;
    }
    browser.press(enter).await;
    browser.wait_text(&format!("#camera-{CAMERA} .badge"), "Free").await;
    browser.close().await;
}
