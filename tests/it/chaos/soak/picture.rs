//! Series one above the other, with a line for each fault, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 110.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 24.0;

/// A series by its name: times in seconds, and values.
pub struct Chart {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Chart {
    pub fn new(name: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self { name, points }
    }

    fn most(&self) -> f64 {
        self.points.iter().map(|point| point.1).fold(0.0, f64::max)
    }

    fn last(&self) -> f64 {
        self.points.last().map_or(1.0, |point| point.0)
    }
}

/// All of them on one time.
pub fn draw(charts: &[Chart], faults: &[(f64, String)]) -> String {
    let seconds = charts.iter().map(Chart::last).fold(1.0, f64::max);
    let across = |time: f64| LEFT + time / seconds * (WIDTH - LEFT - 10.0);
    let rows = f64::from(u32::try_from(charts.len()).unwrap());
    let height = rows * (HEIGHT + TOP) + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, fault) in faults {
        let x = across(*at);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#e0a0a0\"><title>{fault}</title></line>",
            height - 30.0
        );
    }
    let mut top = TOP;
    for chart in charts {
        let most = chart.most();
        let down = |value: f64| top + HEIGHT - if most > 0.0 { value / most * HEIGHT } else { 0.0 };
        let line: Vec<String> = chart
            .points
            .iter()
            .map(|(time, value)| format!("{:.1},{:.1}", across(*time), down(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{most:.0}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">0</text>\n\
             <line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#999\"/>\n\
             <polyline fill=\"none\" stroke=\"#1a5fb4\" stroke-width=\"1.2\" points=\"{}\"/>",
            top - 6.0,
            chart.name,
            LEFT - 5.0,
            top + 10.0,
            LEFT - 5.0,
            top + HEIGHT,
            top + HEIGHT,
            top + HEIGHT,
            line.join(" ")
        );
        top += HEIGHT + TOP;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">{seconds:.0} s; each red line is a fault</text>\n</svg>",
        height - 12.0
    );
    svg
}
