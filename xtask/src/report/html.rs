//! The page: who measured what, what it shows, then section by section.

use std::collections::BTreeMap;

use super::markup::{element, escape, short, text};
use super::{About, Figure, Finding, Report, Section, Table, bars, lines};

const STYLE: &str = include_str!("style.css");

/// Colours that `style.css` has.
const COLOURS: usize = 8;

/// Columns of a table that stands beside other figures.
const NARROW: usize = 3;

/// A colour for every name, in the order in which a report first names them.
pub struct Colours(BTreeMap<String, usize>);

impl Colours {
    pub fn new(report: &Report) -> Self {
        let mut numbers = BTreeMap::new();
        for figure in report.sections.iter().flat_map(|section| &section.figures) {
            let names: Vec<&String> = match figure {
                Figure::Lines(lines) => lines.series.iter().map(|series| &series.name).collect(),
                Figure::Bars(bars) => bars.bars.iter().map(|bar| &bar.name).collect(),
                Figure::Table(_) => Vec::new(),
            };
            for name in names {
                let next = numbers.len();
                numbers.entry(name.clone()).or_insert(next);
            }
        }
        Colours(numbers)
    }

    /// The style class of a name. Names beyond the colours repeat them with other dashes.
    pub fn class(&self, name: &str) -> String {
        let number = self.0.get(name).copied().unwrap_or(0);
        format!("c{} d{}", number % COLOURS, number / COLOURS % 3)
    }
}

/// The whole file.
pub fn page(report: &Report) -> String {
    let colours = Colours::new(report);
    let head = "<meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
                <meta name=\"color-scheme\" content=\"light dark\"/>"
        .to_string()
        + &text("title", &[], &report.title)
        + &element("style", &[], STYLE);
    let mut body = text("h1", &[], &report.title) + &about(&report.about);
    body += &findings(&report.sections);
    for (number, part) in report.sections.iter().enumerate() {
        body += &section(part, number, &colours);
    }
    body += &text("footer", &[], "Lines are medians over seeds, bands reach from the lowest to the highest seed.");
    let html = element("head", &[], &head) + &element("body", &[], &element("main", &[], &body));
    format!("<!doctype html>\n{}\n", element("html", &[("lang", "en")], &html))
}

fn about(about: &About) -> String {
    let commit = about.commit.as_deref().unwrap_or("unknown");
    let device = match &about.driver {
        Some(driver) => format!("{} ({driver})", about.device),
        None => format!("{} ({} threads)", about.device, about.threads),
    };
    let facts = [
        ("device", device),
        ("version", format!("{} at {commit}", about.version)),
        ("date", format!("{} UTC", about.date)),
        ("seed", about.seed.to_string()),
        ("time", format!("{} s", short(about.seconds))),
        ("command", about.command.clone()),
    ];
    let fact = |(name, value): &(&str, String)| element("div", &[], &(text("dt", &[], name) + &text("dd", &[], value)));
    let list = element("dl", &[], &facts.iter().map(fact).collect::<String>());
    if about.complete {
        return list;
    }
    list + &text(
        "p",
        &[("class", "warning")],
        "This run was interrupted: what follows is what was measured until then.",
    )
}

fn findings(sections: &[Section]) -> String {
    let item = |finding: &Finding| {
        element("li", &[], &(text("strong", &[], &format!("{}. ", finding.name)) + &text("span", &[], &finding.text)))
    };
    let items: String = sections.iter().flat_map(|section| &section.findings).map(item).collect();
    if items.is_empty() {
        return items;
    }
    element(
        "section",
        &[],
        &(text("h2", &[], "What this run shows") + &element("ul", &[("class", "findings")], &items)),
    )
}

fn section(section: &Section, number: usize, colours: &Colours) -> String {
    let mut content = text("h2", &[], &section.title);
    content.extend(section.text.iter().map(|paragraph| text("p", &[], paragraph)));
    let figures: String = section
        .figures
        .iter()
        .enumerate()
        .map(|(index, one)| figure(one, &format!("figure-{number}-{index}"), colours))
        .collect();
    content += &element("div", &[("class", "figures")], &figures);
    element("section", &[("id", &format!("section-{}", section.name))], &content)
}

fn figure(figure: &Figure, id: &str, colours: &Colours) -> String {
    let (title, note, content, class) = match figure {
        Figure::Lines(found) => (&found.title, &found.note, lines::draw(found, id, colours), ""),
        Figure::Bars(found) => (&found.title, &found.note, bars::draw(found, id, colours), ""),
        Figure::Table(found) => {
            (&found.title, &found.note, table(found), if found.header.len() > NARROW { "wide" } else { "" })
        }
    };
    let mut content = text("h3", &[], title) + &content;
    if !note.is_empty() {
        content += &text("p", &[("class", "note")], note);
    }
    element("figure", &[("id", id), ("class", class)], &content)
}

fn table(table: &Table) -> String {
    let row = |cell: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|words| element(cell, &[], &escape(words))).collect();
        element("tr", &[], &cells)
    };
    let head = element("thead", &[], &row("th", &table.header));
    let body = element("tbody", &[], &table.rows.iter().map(|cells| row("td", cells)).collect::<String>());
    element("div", &[("class", "scroll")], &element("table", &[], &(head + &body)))
}
