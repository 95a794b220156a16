//! One plot as SVG: axes, grid, curves or points, a legend.

use super::escape;
use std::fmt::Write;

/// Drawing area and its margins, in SVG units.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 52.0;
/// Height of a line of the legend.
const LEGEND: f64 = 20.0;
/// Colours of the style sheet.
const COLOURS: usize = 8;
/// Grid lines of a linear axis, about.
const TICKS: f64 = 6.0;

/// Where things stand along one side.
pub(super) struct Axis {
    pub(super) title: String,
    /// Position and name of each grid line; the outermost are the ends.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Points of one colour.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Joined by a line, or dots.
    pub(super) line: bool,
}

pub(super) struct Plot {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) curves: Vec<Curve>,
    /// Places along the horizontal axis worth a line of their own, and what they are.
    pub(super) marks: Vec<(f64, String)>,
}

impl Axis {
    /// Powers of ten around all points; values are logarithms.
    pub(super) fn decades(title: &str, curves: &[Curve], name: fn(f64) -> String) -> Axis {
        let values = || curves.iter().flat_map(|c| &c.points).map(|p| p.1);
        let low = values().fold(f64::MAX, f64::min).floor();
        let high = values().fold(f64::MIN, f64::max).ceil().max(low + 1.0);
        let decades = (high - low) as usize;
        Axis {
            title: title.to_owned(),
            ticks: (0..=decades)
                .map(|n| low + n as f64)
                .map(|at| (at, name(10f64.powf(at).round())))
                .collect(),
        }
    }

    /// Round numbers from 0 to beyond the largest.
    pub(super) fn linear(title: &str, values: impl Iterator<Item = f64>) -> Axis {
        let most = values.fold(0.0, f64::max).max(1e-9);
        let raw = most / TICKS;
        let decade = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|n| n * decade)
            .find(|step| *step >= raw)
            .unwrap_or(raw);
        let count = (most / step).ceil() as usize;
        Axis {
            title: title.to_owned(),
            ticks: (0..=count)
                .map(|n| n as f64 * step)
                .map(|at| (at, format_number(at, step)))
                .collect(),
        }
    }

    /// Position of a value between the ends, 0 to 1.
    fn part(&self, value: f64) -> f64 {
        let ends = self.ticks.first().zip(self.ticks.last());
        let (low, high) = ends.map_or((0.0, 1.0), |(low, high)| (low.0, high.0));
        ((value - low) / (high - low).max(1e-12)).clamp(0.0, 1.0)
    }
}

fn format_number(value: f64, step: f64) -> String {
    if step >= 1.0 {
        grouped(value)
    } else {
        format!("{value:.*}", (-step.log10()).ceil() as usize)
    }
}

/// A whole number with a comma between thousands.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value <= -0.5 { "-" } else { "" });
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Plot {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (
            LEFT + self.x.part(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - self.y.part(y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    /// The drawing.
    pub(super) fn svg(&self) -> String {
        let height = HEIGHT + LEGEND * self.curves.len() as f64;
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{} against {}\">",
            escape(&self.y.title),
            escape(&self.x.title)
        );
        self.axes(&mut out);
        self.marks(&mut out);
        for (n, curve) in self.curves.iter().enumerate() {
            let colour = format!("var(--c{})", n % COLOURS);
            self.curve(&mut out, curve, &colour);
            let y = HEIGHT + LEGEND * n as f64;
            // Writing to a string does not fail.
            let _ = write!(
                out,
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\" class=\"title\">{}</text>",
                y - 6.0,
                LEFT + 22.0,
                y,
                escape(&curve.name)
            );
        }
        out.push_str("</svg>");
        out
    }

    fn axes(&self, out: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, name) in &self.x.ticks {
            let (x, _) = self.at((*value, 0.0));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
                bottom + 16.0
            );
        }
        for (value, name) in &self.y.ticks {
            let (_, y) = self.at((0.0, *value));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        let _ = write!(
            out,
            "<text class=\"title\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text class=\"title\" transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, right),
            bottom + 36.0,
            escape(&self.x.title),
            f64::midpoint(TOP, bottom),
            escape(&self.y.title)
        );
    }

    fn marks(&self, out: &mut String) {
        for (n, (value, name)) in self.marks.iter().enumerate() {
            let (x, _) = self.at((*value, 0.0));
            // Names of neighbours stand below each other.
            let y = TOP + 14.0 + 16.0 * n as f64;
            let _ = write!(
                out,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\"/><text class=\"title\" x=\"{:.1}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
                HEIGHT - BOTTOM,
                x - 5.0,
                escape(name)
            );
        }
    }

    fn curve(&self, out: &mut String, curve: &Curve, colour: &str) {
        if curve.line {
            let points: Vec<String> = curve
                .points
                .iter()
                .map(|point| self.at(*point))
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ = write!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            );
            return;
        }
        for point in &curve.points {
            let (x, y) = self.at(*point);
            let _ = write!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\" fill-opacity=\"0.7\"><title>{} {}, {:.3} {}</title></circle>",
                grouped(point.0),
                escape(&self.x.title),
                point.1,
                escape(&self.y.title)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_around_the_points() {
        let axis = Axis::linear("x", [3.0, 47.0].into_iter());
        assert_eq!(axis.ticks.last().map(|t| t.1.as_str()), Some("50"));
        assert!(axis.part(0.0) == 0.0 && axis.part(50.0) == 1.0);
        let curve = Curve {
            name: String::new(),
            points: vec![(0.0, 1.2), (1.0, 3.7)],
            line: true,
        };
        let axis = Axis::decades("y", &[curve], |value| value.to_string());
        let names: Vec<&str> = axis.ticks.iter().map(|t| t.1.as_str()).collect();
        assert_eq!(names, ["10", "100", "1000", "10000"]);
        assert_eq!(
            [0.0, 999.4, 1_000.0, 1_234_567.0, -1_500.0].map(grouped),
            ["0", "999", "1,000", "1,234,567", "-1,500"]
        );
    }
}
