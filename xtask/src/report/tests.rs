use std::collections::BTreeMap;

use super::*;

/// An element of a parsed page.
#[derive(Debug)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    /// The texts directly in it.
    text: String,
}

/// Parses well-formed HTML in order of the elements' beginnings; panics where it is not.
fn parse(html: &str) -> Vec<Element> {
    let mut rest = html.strip_prefix("<!doctype html>").unwrap();
    let (mut elements, mut open): (Vec<Element>, Vec<usize>) = (Vec::new(), Vec::new());
    while let Some((before, after)) = rest.split_once('<') {
        assert!(!before.contains('>'), "{before}");
        if let Some(&parent) = open.last() {
            elements[parent].text += &plain(before);
        }
        let (tag, next) = after.split_once('>').unwrap();
        rest = next;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(elements[open.pop().unwrap()].name, name);
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut more) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = BTreeMap::new();
        while let Some((attribute, value)) = more.split_once("=\"") {
            let (value, next) = value.split_once('"').unwrap();
            assert!(attributes.insert(attribute.trim().to_string(), plain(value)).is_none(), "{tag}");
            more = next;
        }
        assert_eq!(more.trim(), "", "{tag}");
        elements.push(Element { name: name.into(), attributes, text: String::new() });
        if !is_empty {
            open.push(elements.len() - 1);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty());
    elements
}

fn plain(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// The numbers of a path.
fn numbers(path: &str) -> Vec<f64> {
    path.split(|letter: char| letter.is_ascii_alphabetic() || letter == ' ')
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().unwrap())
        .collect()
}

/// Checks that everything in a report is on its page, within the pictures.
fn assert_complete(report: &Report) {
    let page = html::page(report);
    for forbidden in ["<script", "http:", "https:", "url(", "@import", "NaN", ">inf"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let elements = parse(&page);
    let all = |name: &'static str| elements.iter().filter(move |element| element.name == name);
    let find = |key: &str, id: &str, name: &str| {
        let has = |element: &Element, key: &str, value: &str| element.attributes.get(key).is_some_and(|x| x == value);
        let mut found = elements.iter().filter(|element| has(element, "data-figure", id) && has(element, key, name));
        let first = found.next().unwrap_or_else(|| panic!("{name} is not drawn in {id}"));
        assert!(found.next().is_none(), "{name} is drawn twice in {id}");
        first
    };
    for (number, section) in report.sections.iter().enumerate() {
        for words in section.text.iter().chain(section.findings.iter().map(|f| &f.text)).chain([&section.title]) {
            assert!(elements.iter().any(|element| element.text == *words), "{words}");
        }
        for (index, figure) in section.figures.iter().enumerate() {
            let id = format!("figure-{number}-{index}");
            assert!(all("figure").any(|element| element.attributes["id"] == id));
            match figure {
                Figure::Lines(lines) => {
                    for series in lines.series.iter().filter(|s| s.curves.iter().any(|curve| !curve.x.is_empty())) {
                        let drawn = numbers(&find("data-series", &id, &series.name).attributes["d"]);
                        let longest = series.curves.iter().map(|curve| curve.x.len()).max().unwrap();
                        assert!(drawn.len() >= 2 * longest.min(50), "{}: {}", series.name, drawn.len());
                        assert!(
                            drawn
                                .chunks(2)
                                .all(|p| p[0] <= 400.0 && p.last().is_none_or(|&y| (0.0..=270.0).contains(&y)))
                        );
                    }
                }
                Figure::Bars(bars) => {
                    for bar in &bars.bars {
                        let drawn = find("data-bar", &id, &format!("{}/{}", bar.group, bar.name));
                        let width: f64 = drawn.attributes["width"].parse().unwrap();
                        assert!((0.0..=400.0).contains(&width) && (width > 0.0) == (bar.value > 0.0), "{}", bar.name);
                    }
                }
                Figure::Table(table) => {
                    for cell in table.rows.iter().flatten() {
                        assert!(all("td").any(|element| element.text == *cell), "{cell}");
                    }
                }
            }
        }
    }
}

fn example() -> Report {
    let falling = |seed: u64, count: usize| {
        Curve::new(seed, (0..count).map(|step| (step as f64, 4.0 - step as f64 / 128.0 + seed as f64 / 8.0)))
    };
    let series = |name: &str, curves| Series { name: name.into(), published: false, curves };
    let diverging = Curve::new(0, [(0.0, 1.0), (1.0, 1e9), (2.0, f64::INFINITY)]);
    let lines = Lines {
        title: "Loss by step & \"more\"".into(),
        note: "a < b".into(),
        timed: false,
        x: Axis::linear("step"),
        y: Axis { limits: Some((1e-3, 10.0)), ..Axis::logarithmic("loss") },
        series: vec![
            series("LoRA", vec![falling(0, 400), falling(1, 390)]),
            series("RefLoRA", vec![falling(2, 40), falling(3, 40)]),
            series("large rate", vec![diverging, Curve::new(1, [(0.0, f64::NAN)])]),
            series("one point", vec![Curve::new(0, [(5.0, 0.5)])]),
            series("nothing", vec![Curve::new(0, [])]),
        ],
    };
    let bar = |group: &str, name: &str, value, low, high| Bar {
        group: group.into(),
        name: name.into(),
        value,
        low,
        high,
        ceiling: low.map(|_| 20.0),
        published: group == "theirs",
    };
    let bars = Bars {
        title: "Time".into(),
        note: String::new(),
        timed: true,
        unit: "s".into(),
        better: Better::Lower,
        bars: vec![
            bar("ours", "LoRA", 12.5, Some(10.0), Some(14.0)),
            bar("ours", "nothing at all", 0.0, None, None),
            bar("theirs", "LoRA", 15.0, None, None),
        ],
    };
    let row = ["x".to_string(), "1 & 2".into()];
    let header = vec!["what".into(), "how much".into()];
    let table = Table { title: "Numbers".into(), note: String::new(), timed: false, header, rows: vec![row.to_vec()] };
    Report {
        schema: SCHEMA,
        title: "Bench".into(),
        about: About {
            command: "bench --quick".into(),
            version: "0.1.0".into(),
            commit: None,
            date: "2026-01-31 12:00".into(),
            device: "cpu".into(),
            driver: None,
            threads: 2,
            seed: 0,
            seconds: 12.0,
            complete: false,
        },
        sections: vec![Section {
            name: "example".into(),
            title: "An example".into(),
            text: vec!["What was done <here>.".into()],
            findings: vec![Finding::new("Speed", "RefLoRA is 1.2 (1.1 to 1.3) times faster.".into(), true)],
            figures: vec![Figure::Lines(lines), Figure::Bars(bars), Figure::Table(table)],
            raw: serde_json::json!({"any": [1, 2.5]}),
        }],
    }
}

#[test]
fn everything_in_the_results_is_drawn() {
    assert_complete(&example());
    assert_eq!(example().summary(), "- Speed: RefLoRA is 1.2 (1.1 to 1.3) times faster.\n");
}

#[test]
fn results_are_written_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("new");
    example().write(&out).unwrap();
    let read = std::fs::read(out.join("results.json")).unwrap();
    // The numbers of the example have few binary digits: they survive the text as they are.
    assert!(serde_json::from_slice::<Report>(&read).unwrap() == example());
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().ends_with("</html>\n"));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(example().write(&file).unwrap_err().to_string().contains("--out"));
}
