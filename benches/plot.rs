//! Draws a line chart as SVG: both axes logarithmic, so that a cost that grows with the fleet is a straight line.

use std::fmt::Write as _;

/// One line of a chart.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Drawn with dashes: what it was before.
    pub(crate) dashed: bool,
    /// Which colour; lines that belong together share one.
    pub(crate) colour: usize,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;
/// Told apart by people who see few colours.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The chart of these lines. Points that are not above 0 are left out.
pub(crate) fn chart(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    let positive = |line: &Line| line.points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect::<Vec<_>>();
    let all: Vec<(f64, f64)> = lines.iter().flat_map(positive).collect();
    let (x, y) = (Axis::over(all.iter().map(|point| point.0)), Axis::over(all.iter().map(|point| point.1)));
    let at_x = |value: f64| LEFT + x.part(value) * (WIDTH - LEFT - RIGHT);
    let at_y = |value: f64| HEIGHT - BOTTOM - y.part(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let mut put = |text: String| svg.push_str(&text);
    for value in x.decades() {
        let at = at_x(value);
        put(format!("<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/>\n", HEIGHT - BOTTOM));
        put(format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n", HEIGHT - BOTTOM + 16.0, short(value)));
    }
    for value in y.decades() {
        let at = at_y(value);
        put(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>\n", WIDTH - RIGHT));
        put(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n", LEFT - 6.0, at + 4.0, short(value)));
    }
    put(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{x_name}</text>\n", WIDTH - RIGHT, HEIGHT - 8.0));
    put(format!("<text x=\"8\" y=\"{:.1}\">{y_name}</text>\n", TOP - 4.0));
    let mut names = Vec::new();
    for line in lines {
        let points = positive(line);
        let Some(last) = points.last() else { continue };
        let colour = COLOURS[line.colour % COLOURS.len()];
        let dashes = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let path = points.iter().fold(String::new(), |mut path, (x, y)| {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            // Writing to a string does not fail.
            let _ = write!(path, "{letter}{:.1} {:.1}", at_x(*x), at_y(*y));
            path
        });
        put(format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\n"));
        for (x, y) in &points {
            put(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\n", at_x(*x), at_y(*y)));
        }
        names.push((at_y(last.1), colour, &line.name));
    }
    // The names stand at the right, in the order of the lines' ends, and do not cover each other.
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = TOP;
    for (at, colour, name) in names {
        let at = at.max(free);
        free = at + 15.0;
        put(format!("<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>\n", WIDTH - RIGHT + 10.0, at + 4.0));
    }
    svg + "</svg>\n"
}

/// A logarithmic axis over whole decades.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        let from = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let to = values.fold(f64::NEG_INFINITY, f64::max).log10().ceil();
        // Powers of ten of a measurement fit; an empty chart has one decade.
        if from.is_finite() && to.is_finite() {
            Self { from: from as i32, to: (to as i32).max(from as i32 + 1) }
        } else {
            Self { from: 0, to: 1 }
        }
    }

    fn part(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|exponent| 10f64.powi(exponent))
    }
}

fn short(value: f64) -> String {
    if value >= 1000.0 { format!("{},000", value / 1000.0) } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_as_many_are_one_decade_to_the_right() {
        let line = Line { name: "cancel".into(), points: vec![(100.0, 0.1), (1000.0, 1.0), (0.0, 5.0)], dashed: true, colour: 1 };
        let svg = chart("title", "cameras", "seconds", &[line]);
        assert_eq!(svg.matches("<circle").count(), 2, "what is not above 0 has no place: {svg}");
        assert!(svg.contains("M60.0 336.0L570.0 36.0") && svg.contains("stroke-dasharray") && svg.contains(">1,000<"), "{svg}");
    }
}
