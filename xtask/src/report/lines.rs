//! Curves as a picture: the median of each series with its band, axes, and a legend below that wraps.

use super::html::Colours;
use super::markup::{coordinate, element, escape, text};
use super::scale::Scale;
use super::statistics::{Point, band};
use super::{Lines, Series};

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 380.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 224.0;

/// Points of a curve at most: more than the picture can show.
const PLACES: usize = 150;

/// The picture and its legend; `id` is the figure's.
pub fn draw(lines: &Lines, id: &str, colours: &Colours) -> String {
    let (x, y) = scales(lines);
    let places = x.spread(PLACES);
    let mut picture = axes(lines, &x, &y);
    let bands: Vec<(&Series, Vec<Point>)> = lines.series.iter().map(|series| (series, band(series, &places))).collect();
    for (series, points) in bands.iter().filter(|(series, points)| series.curves.len() > 1 && points.len() > 1) {
        picture.push_str(&area(series, points, (&x, &y), colours));
    }
    for (series, points) in &bands {
        picture.push_str(&curve(series, points, (&x, &y), id, colours));
    }
    let frame = format!("0 0 {WIDTH} {HEIGHT}");
    let attributes = [("viewBox", frame.as_str()), ("class", "plot"), ("role", "img"), ("aria-label", &lines.title)];
    element("svg", &attributes, &picture) + &legend(lines, colours)
}

/// Scales that hold all points.
fn scales(lines: &Lines) -> (Scale, Scale) {
    let curves = || lines.series.iter().flat_map(|series| &series.curves);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low <= high { (low, high) } else { (0.0, 1.0) }
    };
    let xs = range(&mut curves().flat_map(|curve| curve.x.iter().copied()));
    let ys = range(&mut curves().flat_map(|curve| curve.y.iter().copied()));
    (Scale::new(&lines.x, xs, (LEFT, RIGHT)), Scale::new(&lines.y, ys, (BOTTOM, TOP)))
}

fn axes(lines: &Lines, x: &Scale, y: &Scale) -> String {
    let mut picture = String::new();
    let line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(coordinate);
        element("line", &[("class", "grid"), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], "")
    };
    let label = |at_x: f64, at_y: f64, anchor: &str, words: &str| {
        text("text", &[("x", &coordinate(at_x)), ("y", &coordinate(at_y)), ("text-anchor", anchor)], words)
    };
    for (value, words) in x.ticks() {
        let at = x.at(value);
        picture += &line(at, TOP, at, BOTTOM);
        picture += &label(at, BOTTOM + 17.0, "middle", &words);
    }
    for (value, words) in y.ticks() {
        let at = y.at(value);
        picture += &line(LEFT, at, RIGHT, at);
        picture += &label(LEFT - 6.0, at + 4.5, "end", &words);
    }
    picture += &label((LEFT + RIGHT) / 2.0, BOTTOM + 37.0, "middle", &lines.x.label);
    let turned = format!("translate(13 {}) rotate(-90)", coordinate((TOP + BOTTOM) / 2.0));
    picture + &text("text", &[("transform", &turned), ("text-anchor", "middle")], &lines.y.label)
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let words = points.enumerate().map(|(index, (x, y))| {
        let letter = if index == 0 { 'M' } else { 'L' };
        format!("{letter}{} {}", coordinate(x), coordinate(y))
    });
    words.collect::<Vec<_>>().join("")
}

fn area(series: &Series, points: &[Point], (x, y): (&Scale, &Scale), colours: &Colours) -> String {
    let there = points.iter().map(|point| (x.at(point.x), y.at(point.high)));
    let back = points.iter().rev().map(|point| (x.at(point.x), y.at(point.low)));
    let class = format!("band {}", colours.class(&series.name));
    element("path", &[("class", &class), ("d", &(path(there.chain(back)) + "Z"))], "")
}

fn curve(series: &Series, points: &[Point], (x, y): (&Scale, &Scale), id: &str, colours: &Colours) -> String {
    let Some(last) = points.last() else { return String::new() };
    let colour = colours.class(&series.name);
    let title = text("title", &[], &series.name);
    let class = format!("line {colour}{}", if series.published { " published" } else { "" });
    let mut d = path(points.iter().map(|point| (x.at(point.x), y.at(point.median))));
    if points.len() == 1 {
        // A stroke of no length is drawn as its round end.
        d.push_str("h0.1");
    }
    let mut drawn =
        element("path", &[("class", &class), ("d", &d), ("data-figure", id), ("data-series", &series.name)], &title);
    if series.curves.iter().any(|curve| curve.diverged) {
        let (x, y) = (coordinate(x.at(last.x)), coordinate(y.at(last.median).max(TOP + 10.0)));
        drawn += &text("text", &[("class", &format!("mark {colour}")), ("x", &x), ("y", &y)], "✕");
    }
    drawn
}

fn legend(lines: &Lines, colours: &Colours) -> String {
    let entry = |series: &Series| {
        let class = format!("line {}", colours.class(&series.name));
        let stroke = element("line", &[("class", &class), ("x1", "2"), ("y1", "6"), ("x2", "30"), ("y2", "6")], "");
        let swatch = element("svg", &[("viewBox", "0 0 32 12"), ("class", "swatch"), ("aria-hidden", "true")], &stroke);
        let mut words = escape(&series.name);
        if series.published {
            words += " (published)";
        }
        if series.curves.iter().all(|curve| curve.x.is_empty()) {
            words += " (no data)";
        } else if series.curves.iter().any(|curve| curve.diverged) {
            words += " (✕ diverged)";
        }
        element("li", &[], &(swatch + &words))
    };
    element("ul", &[("class", "legend")], &lines.series.iter().map(entry).collect::<String>())
}
