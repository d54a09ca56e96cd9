//! Breaks text into lines for a terminal of 80 columns. The tables of commands and codes hold plain paragraphs.

/// The columns of a line. Words that are longer stand alone.
pub(super) const WIDTH: usize = 80;

/// Paragraphs, broken into lines and indented, without a line break at the end.
pub(super) fn paragraphs(text: &str, indent: usize) -> String {
    let mut folded = String::with_capacity(text.len() * 5 / 4);
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if number > 0 {
            folded += "\n\n";
        }
        let mut column = 0;
        for word in paragraph.split_whitespace() {
            let width = word.chars().count();
            if column > 0 && column + 1 + width > WIDTH {
                folded.push('\n');
                column = 0;
            }
            if column == 0 {
                folded.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                folded.push(' ');
                column += 1;
            }
            folded += word;
            column += width;
        }
    }
    folded
}

/// `left`, and `right` beside it from a column on, or below it if `left` is too long. Ends with a line break.
pub(super) fn beside(left: &str, right: &str, column: usize) -> String {
    let right = paragraphs(right, column);
    match column.checked_sub(left.chars().count()) {
        Some(gap) if gap >= 2 => format!("{left}{}\n", &right[column - gap..]),
        _ => format!("{left}\n{right}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_the_width_and_paragraphs_stay_apart() {
        let text = format!("{}\n\nsecond", "word ".repeat(40));
        let folded = paragraphs(&text, 4);
        assert!(folded.lines().all(|line| line.chars().count() <= WIDTH), "{folded}");
        assert!(folded.starts_with("    word word") && folded.ends_with("word\n\n    second"), "{folded}");
        assert_eq!(paragraphs(&"x".repeat(100), 2).trim_start().len(), 100, "a long word stands alone");
    }

    #[test]
    fn a_long_left_side_has_its_text_below() {
        assert_eq!(beside("  -x", "does", 8), "  -x    does\n");
        assert_eq!(beside("  --output FILE", "does", 8), "  --output FILE\n        does\n");
        assert_eq!(beside("é", "does", 4), "é   does\n");
    }
}
