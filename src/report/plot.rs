//! Plots as inline SVG: bars on two axes, drawn here, without a script. Colours come from the page's style sheet. Pure.

use std::fmt::Write as _;

use super::audit::sum;
use super::harmless::escape;
use super::over_time::Series;
use super::summary::SizesSummary;
use crate::flow::text::rfc3339;

/// Width and height of the drawing, in its own units: text of 12 stays readable where the page is 400 pixels wide.
const SIZE: (f64, f64) = (480.0, 230.0);
/// The part of it inside the axes: left, right, top, bottom.
const INSIDE: (f64, f64, f64, f64) = (52.0, 468.0, 26.0, 182.0);
/// Narrowest bar.
const THINNEST: f64 = 1.5;

/// A plot.
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// The same in a sentence, for those who do not see it.
    pub description: String,
    x: Axis,
    y: Axis,
    bars: Vec<Bar>,
    /// A limit on the x axis, and its name.
    limit: Option<(f64, String)>,
    /// Kinds of bars and their names, where there are several.
    legend: &'static [(&'static str, &'static str)],
}

/// An axis: its name, and marks at places from 0 to 1.
struct Axis {
    name: String,
    marks: Vec<(f64, String)>,
}

/// A bar, its edges from 0 to 1.
struct Bar {
    x: (f64, f64),
    y: (f64, f64),
    kind: &'static str,
}

/// How long frames were, and which of them arrived cut; `limit` is the length to which they were, with its name.
/// `None` where there was none.
pub fn sizes(sizes: &SizesSummary, limit: Option<(u32, String)>) -> Option<Plot> {
    let steps = (sizes.from.iter().zip(&sizes.to)).zip(sizes.packets.iter().zip(&sizes.truncated));
    let log = |len: u64| (len.max(16) as f64).log2();
    let at_limit = limit.as_ref().map(|(len, _)| u64::from(*len));
    let shortest = sizes.from.iter().copied().chain(at_limit).min()?;
    let longest = sizes.to.iter().copied().chain(at_limit).max()?;
    let (low, high) = (log(shortest).floor(), log(longest.saturating_add(1)).ceil());
    let x = |len: u64| (log(len) - low) / (high - low).max(1.0);
    let most = sizes.packets.iter().copied().max().unwrap_or_default();
    let (top, y) = count_axis(most as f64, "packets");
    let mut bars = Vec::new();
    for ((from, to), (packets, truncated)) in steps {
        let x = (x(*from), x(to.saturating_add(1)));
        let whole = packets.saturating_sub(*truncated) as f64 / top;
        let all = *packets as f64 / top;
        let bar = |y, kind| Bar { x, y, kind };
        bars.push(bar((0.0, whole), "whole"));
        bars.push(bar((whole, all), "cut"));
    }
    let marks = (low as u32..=high as u32).map(|power| 1 << power.min(40));
    let marks = marks.map(|len: u64| (x(len), len.to_string())).collect();
    let cut = sum(sizes.truncated.iter().copied());
    let said = limit.as_ref();
    let said = said.map_or_else(String::new, |(_, name)| format!("; limit: {name}"));
    Some(Plot {
        title: "Frame sizes at the mirror source".to_owned(),
        description: format!("from {shortest} to {longest} bytes; {cut} packets truncated{said}."),
        x: Axis {
            name: "bytes of inner frame at the mirror source".to_owned(),
            marks,
        },
        y,
        bars,
        limit: limit.map(|(len, name)| (x(len.into()), name)),
        legend: &[("whole", "whole"), ("cut", "truncated")],
    })
}

/// How much came when, in bits a second. `None` where all came within one stretch of time.
pub fn throughput(series: &Series) -> Option<Plot> {
    let bits = |bytes: u64| bytes as f64 * 8.0 / series.seconds as f64;
    let most = series.stretches.iter().map(|stretch| stretch.bytes).max()?;
    let (top, y) = count_axis(bits(most), "bit/s");
    let title = "Throughput over time".to_owned();
    let description = format!("{}bit/s of inner frames at the most.", spaced(bits(most)));
    over_time(series, title, description, y, "whole", |stretch| {
        bits(stretch.bytes) / top
    })
}

/// Which share of the packets arrived cut when. `None` where all came within one stretch of time.
pub fn cut_share(series: &Series) -> Option<Plot> {
    let share =
        |stretch: &super::over_time::Stretch| stretch.truncated as f64 / stretch.packets as f64;
    let came = || {
        series
            .stretches
            .iter()
            .filter(|stretch| stretch.packets > 0)
    };
    let most = came().map(share).fold(0.0, f64::max);
    let least = came().map(share).fold(1.0, f64::min);
    let title = "Share of truncated packets over time".to_owned();
    let description = format!("between {:.1} % and {:.1} %.", 100.0 * least, 100.0 * most);
    let marks = [0, 25, 50, 75, 100].map(|at| (f64::from(at) / 100.0, format!("{at} %")));
    let y = Axis {
        name: "truncated packets".to_owned(),
        marks: marks.into(),
    };
    over_time(series, title, description, y, "cut", |stretch| {
        if stretch.packets == 0 {
            0.0
        } else {
            share(stretch)
        }
    })
}

fn over_time(
    series: &Series,
    title: String,
    description: String,
    y: Axis,
    kind: &'static str,
    height: impl Fn(&super::over_time::Stretch) -> f64,
) -> Option<Plot> {
    let count = series.stretches.len();
    if count < 2 {
        return None;
    }
    let x = |at: usize| at as f64 / count as f64;
    let bars = series.stretches.iter().enumerate();
    let bars = bars.map(|(at, stretch)| Bar {
        x: (x(at), x(at + 1)),
        y: (0.0, height(stretch)),
        kind,
    });
    Some(Plot {
        title,
        description,
        x: time_axis(series),
        y,
        bars: bars.collect(),
        limit: None,
        legend: &[],
    })
}

/// Marks at four moments or fewer, with the date in its name where that is one.
fn time_axis(series: &Series) -> Axis {
    let count = series.stretches.len();
    let time = |at: usize| {
        let seconds = series
            .begin_s
            .saturating_add(series.seconds.saturating_mul(at as u64));
        rfc3339(seconds.saturating_mul(1_000_000_000)).to_owned()
    };
    let part =
        |text: &str, from: usize, to: usize| text.get(from..to).unwrap_or_default().to_owned();
    let (first, last) = (time(0), time(count));
    let is_one_day = part(&first, 0, 10) == part(&last, 0, 10);
    let mark = |text: String| match is_one_day {
        true => part(&text, 11, 19),
        false => format!("{} {}", part(&text, 5, 10), part(&text, 11, 16)),
    };
    let parts = count.min(3);
    let marks = (0..=parts).map(|at| {
        let at = at * count / parts;
        (at as f64 / count as f64, mark(time(at)))
    });
    let step = match series.seconds {
        1 => "1 second".to_owned(),
        seconds => format!("{seconds} seconds"),
    };
    let day = match is_one_day {
        true => format!("{}, ", part(&first, 0, 10)),
        false => String::new(),
    };
    Axis {
        name: format!("{day}UTC, a bar for {step}"),
        marks: marks.collect(),
    }
}

/// An axis from 0 to at least `most`, and where it ends.
fn count_axis(most: f64, name: &str) -> (f64, Axis) {
    let most = most.max(1.0);
    let power = 10f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| step * 4.0 >= most);
    let step = step
        .unwrap_or(most)
        .max(if name == "packets" { 1.0 } else { 0.0 });
    let count = (most / step).ceil().max(1.0);
    let top = step * count;
    let marks = (0..=count as u32).map(|at| {
        let value = step * f64::from(at);
        (value / top, short(value))
    });
    let axis = Axis {
        name: name.to_owned(),
        marks: marks.collect(),
    };
    (top, axis)
}

/// A number in few characters: 1.5 k.
fn short(value: f64) -> String {
    let units = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| value >= *unit)
        .unwrap_or((1.0, ""));
    let number = format!("{:.1}", value / unit);
    format!("{}{name}", number.trim_end_matches(".0"))
}

/// The same in front of a unit.
fn spaced(value: f64) -> String {
    let number = short(value);
    match number.contains(' ') {
        true => number,
        false => number + " ",
    }
}

impl Plot {
    /// As SVG; `id` names it within its page.
    pub fn svg(&self, id: usize) -> String {
        let (width, height) = SIZE;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"t{id} d{id}\">\
             <title id=\"t{id}\">{}</title><desc id=\"d{id}\">{}</desc>\n",
            escape(&self.title),
            escape(&self.description)
        );
        self.axes(&mut svg);
        for bar in self.bars.iter().filter(|bar| bar.y.1 > bar.y.0) {
            let (left, right) = (x_of(bar.x.0), x_of(bar.x.1));
            let (top, bottom) = (y_of(bar.y.1), y_of(bar.y.0));
            let _ = writeln!(
                svg,
                "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                bar.kind,
                (right - left - 0.5).max(THINNEST),
                (bottom - top).max(0.5)
            );
        }
        if let Some((at, name)) = &self.limit {
            let x = x_of(*at);
            // The name stands where there is more room.
            let (anchor, dx) = if *at > 0.5 {
                ("end", -5.0)
            } else {
                ("start", 5.0)
            };
            let _ = writeln!(
                svg,
                "<line class=\"limit\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>\
                 <text class=\"limit\" x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
                INSIDE.2,
                INSIDE.3,
                x + dx,
                INSIDE.2 + 12.0,
                escape(name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Axes with their marks and names, and what the colours mean.
    fn axes(&self, svg: &mut String) {
        let (left, right, top, bottom) = INSIDE;
        for (at, name) in &self.y.marks {
            let y = y_of(*at);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                left - 6.0,
                y + 4.0
            );
        }
        for (at, name) in &self.x.marks {
            let x = x_of(*at);
            let anchor = if *at > 0.95 { "end" } else { "middle" };
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{name}</text>",
                bottom + 4.0,
                bottom + 18.0
            );
        }
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"name\" x=\"4\" y=\"{}\">{}</text>",
            (left + right) / 2.0,
            bottom + 38.0,
            self.x.name,
            top - 12.0,
            self.y.name
        );
        for (at, (kind, name)) in self.legend.iter().enumerate() {
            let x = right - 150.0 + 70.0 * at as f64;
            let _ = writeln!(
                svg,
                "<rect class=\"{kind}\" x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\"/>\
                 <text x=\"{}\" y=\"{}\">{name}</text>",
                top - 21.0,
                x + 14.0,
                top - 12.0
            );
        }
    }
}

fn x_of(at: f64) -> f64 {
    INSIDE.0 + at.clamp(0.0, 1.0) * (INSIDE.1 - INSIDE.0)
}

fn y_of(at: f64) -> f64 {
    INSIDE.3 - at.clamp(0.0, 1.0) * (INSIDE.3 - INSIDE.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, end) in [
            (1.0, 1.0),
            (3.0, 3.0),
            (7.0, 8.0),
            (100.0, 100.0),
            (4321.0, 6000.0),
            (1.3e9, 1.5e9),
        ] {
            let (top, axis) = count_axis(most, "packets");
            assert_eq!(top, end, "{most}");
            assert!(axis.marks.len() <= 5, "{most}");
        }
        let texts = [0.0, 250.0, 1500.0, 2e6, 1.25e9].map(short);
        assert_eq!(texts, ["0", "250", "1.5 k", "2 M", "1.2 G"]);
    }

    #[test]
    fn nothing_divides_by_nothing() {
        let none = SizesSummary {
            from: Vec::new(),
            to: Vec::new(),
            packets: Vec::new(),
            truncated: Vec::new(),
        };
        assert!(sizes(&none, None).is_none());
        // As nobody would write it: a summary is a file like any other.
        let odd = SizesSummary {
            from: vec![0, u64::MAX],
            to: vec![u64::MAX],
            packets: vec![0, 7],
            truncated: vec![u64::MAX, 1],
        };
        let svg = sizes(&odd, Some((0, "<0>".to_owned()))).unwrap().svg(0);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("&lt;0&gt;") && !svg.contains("<0>"), "{svg}");
    }
}
