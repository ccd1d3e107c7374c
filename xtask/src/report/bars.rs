//! Values as bars: each under its name, so that long names have room on a phone.

use super::html::Colours;
use super::markup::{coordinate, element, escape, short, text};
use super::{Bar, Bars, Better};

const WIDTH: f64 = 400.0;

/// The bars; `id` is the figure's.
pub fn draw(bars: &Bars, id: &str, colours: &Colours) -> String {
    let largest = largest(bars);
    let mut drawn = String::new();
    let mut group = "";
    for bar in &bars.bars {
        if bar.group != group {
            group = &bar.group;
            drawn += &text("h4", &[], group);
        }
        drawn += &one(bar, bars, id, largest, colours);
    }
    let better = match bars.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    drawn + &text("p", &[("class", "note")], &format!("in {}; {better}", bars.unit))
}

/// Where the picture ends: at the largest value, or as far beyond it as intervals reach, up to half as far again. A very wide
/// interval would leave nothing of the bars.
fn largest(bars: &Bars) -> f64 {
    let most = |of: fn(&Bar) -> Option<f64>| bars.bars.iter().filter_map(of).fold(0.0, f64::max);
    let value = most(|bar| Some(bar.value)).max(most(|bar| bar.ceiling));
    value.max(most(|bar| bar.high).min(1.5 * value))
}

fn one(bar: &Bar, bars: &Bars, id: &str, largest: f64, colours: &Colours) -> String {
    let at = |value: f64| coordinate(if largest > 0.0 { (WIDTH * value / largest).clamp(0.0, WIDTH) } else { 0.0 });
    let colour = colours.class(&bar.name);
    let class = format!("bar {colour}{}", if bar.published { " published" } else { "" });
    let rectangle = [
        ("class", class.as_str()),
        ("x", "0"),
        ("y", "3"),
        ("width", &at(bar.value)),
        ("height", "10"),
        ("data-figure", id),
        ("data-bar", &format!("{}/{}", bar.group, bar.name)),
    ];
    let mut picture = element("rect", &rectangle, "");
    let line = |class: &str, x1: &str, x2: &str, y1: &str, y2: &str| {
        element("line", &[("class", class), ("x1", x1), ("x2", x2), ("y1", y1), ("y2", y2)], "")
    };
    if let (Some(low), Some(high)) = (bar.low, bar.high) {
        picture += &line("whisker", &at(low), &at(high), "8", "8");
        picture += &[low, high].map(|end| line("whisker", &at(end), &at(end), "4", "12")).concat();
    }
    if let Some(ceiling) = bar.ceiling {
        picture += &line("ceiling", &at(ceiling), &at(ceiling), "0", "16");
    }
    let mut value = format!("{} {}", short(bar.value), bars.unit);
    if let (Some(low), Some(high)) = (bar.low, bar.high) {
        value += &format!(" ({} to {})", short(low), short(high));
    }
    if let Some(ceiling) = bar.ceiling {
        value += &format!(" of {}", short(ceiling));
    }
    let name = escape(&bar.name) + if bar.published { " (published)" } else { "" };
    let label = element("span", &[], &name) + &text("span", &[("class", "value")], &value);
    let frame = [("viewBox", "0 0 400 16"), ("preserveAspectRatio", "none"), ("aria-hidden", "true")];
    element(
        "div",
        &[("class", "row")],
        &(element("div", &[("class", "label")], &label) + &element("svg", &frame, &picture)),
    )
}
