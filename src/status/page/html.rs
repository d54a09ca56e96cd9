//! HTML as it is written: markup as it is, text escaped. There is no other way to put text into the page.

/// HTML so far.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup, or words of the page's own, which hold nothing to escape.
    pub fn raw(&mut self, markup: &str) -> &mut Self {
        self.0 += markup;
        self
    }

    /// Text from anywhere, for an element or a quoted attribute.
    pub fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0 += "&amp;",
                '<' => self.0 += "&lt;",
                '>' => self.0 += "&gt;",
                '"' => self.0 += "&quot;",
                '\'' => self.0 += "&#39;",
                c => self.0.push(c),
            }
        }
        self
    }

    pub fn number(&mut self, number: u64) -> &mut Self {
        self.0 += &number.to_string();
        self
    }

    pub fn finish(self) -> String {
        self.0
    }
}
