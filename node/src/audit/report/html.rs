//! A report as one page that needs nothing else: no script, no font, no address.

use super::picture::Grid;
use super::words::{sentences, size};
use super::{Basis, Body, LIMITS, Measured, Pair, Report, Repository, Source};
use crate::audit::compare::TensorComparison;
use crate::audit::finding::Finding;
use crate::audit::preflight::Preflight;
use crate::report::html::{self, Images, escaped, put};
use crate::report::words::count;

/// Most rows of a table; the JSON form has all.
const ROWS: usize = 500;
/// Most pairs that get a section with pictures; the rest is in the table.
const PICTURED: usize = 50;

pub(super) fn render(report: &Report) -> String {
    let title = match &report.body {
        Body::Hash(repository) => format!("What {} holds", repository.source),
        Body::Compare(pair) => format!("{} beside {}", pair.a, pair.b),
        Body::Scan(scan) => format!("Audit of {}", count(scan.repositories.len(), "repository")),
        Body::Preflight(page) => format!("Preflight of {}", page.repository.source),
    };
    let mut page = html::open(&title, Images::None, "");
    put!(
        page,
        "<p class=\"outcome {}\">{}</p>",
        report.outcome,
        escaped(&super::text::conclusion(report))
    );
    match &report.body {
        Body::Hash(repository) => {
            describe(&mut page, repository);
            files(&mut page, repository);
        }
        Body::Compare(one) => pair(&mut page, one),
        Body::Preflight(flight) => preflight(&mut page, flight),
        Body::Scan(scan) => {
            overview(&mut page, report);
            for pair in scan.pairs.iter().take(PICTURED) {
                put!(page, "<section>");
                put!(
                    page,
                    "<h2>{} and {}</h2>",
                    escaped(&pair.a.to_string()),
                    escaped(&pair.b.to_string())
                );
                self::pair(&mut page, pair);
                put!(page, "</section>");
            }
            for repository in report.repositories() {
                put!(
                    page,
                    "<section>\n<h2>{}</h2>",
                    escaped(&repository.source.to_string())
                );
                describe(&mut page, repository);
                put!(
                    page,
                    "<details><summary>{}</summary>",
                    count(repository.files.len(), "file")
                );
                files(&mut page, repository);
                put!(page, "</details>\n</section>");
            }
        }
    }
    put!(page, "<section>\n<h2>What this does not prove</h2>\n<ul>");
    for limit in LIMITS {
        put!(page, "<li>{}</li>", escaped(limit));
    }
    put!(page, "</ul>\n</section>");
    html::close(
        &mut page,
        &report.tool,
        "Every rule has a page in docs/rules of the sources; the JSON form of this report has all figures.",
    );
    page
}

/// All repositories and all pairs in two tables.
fn preflight(page: &mut String, flight: &Preflight) {
    for check in &flight.checks {
        put!(page, "<section>\n<h2>{}</h2>", check.title());
        put!(
            page,
            "<p><span class=\"badge {0}\">{0}</span> {1}</p>",
            check.state.mark().to_lowercase(),
            escaped(&check.says)
        );
        findings(page, &check.findings);
        if check.name == "memory" && !flight.cards.is_empty() {
            put!(
                page,
                "<table>\n<tr><th>memory</th><th>cards</th><th>how</th><th>needed</th></tr>"
            );
            for card in &flight.cards {
                put!(
                    page,
                    "<tr><td>{} GiB</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    card.gib,
                    escaped(card.examples),
                    card.how(),
                    size(card.needed)
                );
            }
            put!(page, "</table>");
        }
        put!(page, "</section>");
    }
    for pair in &flight.pairs {
        put!(
            page,
            "<section>\n<h2>{} and {}</h2>",
            escaped(&pair.a.to_string()),
            escaped(&pair.b.to_string())
        );
        self::pair(page, pair);
        put!(page, "</section>");
    }
    put!(page, "<section>\n<h2>The repository</h2>");
    describe(page, &flight.repository);
    files(page, &flight.repository);
    put!(page, "</section>");
}

fn overview(page: &mut String, report: &Report) {
    let Body::Scan(scan) = &report.body else {
        return;
    };
    put!(
        page,
        "<section>\n<h2>Repositories</h2>\n<div class=\"wide\"><table><thead><tr><th>repository</th>\
         <th>worst finding</th><th class=\"number\">findings</th><th class=\"number\">size</th><th>model hash</th></tr></thead><tbody>"
    );
    for repository in report.repositories() {
        let worst = repository
            .findings
            .iter()
            .max_by_key(|finding| finding.severity);
        let worst = worst.map_or_else(
            || "<span class=\"severity clean\">none</span>".to_owned(),
            |finding| format!("{} {}", badge(finding), escaped(finding.rule.name())),
        );
        let is_base = scan
            .base
            .as_ref()
            .is_some_and(|base| std::ptr::eq(base, repository));
        put!(
            page,
            "<tr><td>{}{}</td><td>{worst}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td><code>{}</code></td></tr>",
            escaped(&repository.source.to_string()),
            if is_base { " (the base)" } else { "" },
            repository.findings.len(),
            size(repository.bytes()),
            repository
                .model_hash
                .as_deref()
                .map_or("none", |hash| hash.get(..16).unwrap_or(hash))
        );
    }
    put!(page, "</tbody></table></div>");
    if scan.base.is_none() && scan.repositories.len() > 1 {
        put!(
            page,
            "<p>No base was given, so only equal weights were recognised; disguised copies were not looked for.</p>"
        );
    }
    if !scan.pairs.is_empty() {
        put!(
            page,
            "<h2>Pairs that were set beside each other</h2>\n<div class=\"wide\"><table><thead><tr><th>verdict</th>\
             <th>A</th><th>B</th></tr></thead><tbody>"
        );
        for pair in scan.pairs.iter().take(ROWS) {
            put!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                verdict(pair),
                escaped(&pair.a.to_string()),
                escaped(&pair.b.to_string())
            );
        }
        put!(page, "</tbody></table></div>");
        if scan.pairs.len() > PICTURED {
            put!(page, "<p>The first {PICTURED} pairs are shown below.</p>");
        }
    }
    put!(page, "</section>");
}

fn badge(finding: &Finding) -> String {
    format!("<span class=\"severity {0}\">{0}</span>", finding.severity)
}

fn verdict(pair: &Pair) -> String {
    let class = if pair.verdict.is_copy() {
        "high"
    } else if pair.rule().is_some() {
        "medium"
    } else {
        "clean"
    };
    format!("<span class=\"severity {class}\">{}</span>", pair.verdict)
}

fn row(page: &mut String, name: &str, value: &str) {
    put!(page, "<dt>{name}</dt><dd>{value}</dd>");
}

fn describe(page: &mut String, repository: &Repository) {
    let from = match repository.from {
        Basis::Bytes => "",
        Basis::Metadata => ", by the Hub's metadata; no byte was read",
    };
    let holds = format!(
        "{}, {}{from}",
        count(repository.files.len(), "file"),
        size(repository.bytes())
    );
    let code = |digest: Option<&str>| {
        digest.map_or_else(
            || "none".to_owned(),
            |digest| format!("<code>{}</code>", escaped(digest)),
        )
    };
    let digest = repository.model_digest.as_ref();
    put!(page, "<dl>");
    row(page, "holds", &holds);
    row(page, "model hash", &code(repository.model_hash.as_deref()));
    row(
        page,
        "values, by name",
        &code(digest.map(|digest| digest.named.as_str())),
    );
    row(
        page,
        "values alone",
        &code(digest.map(|digest| digest.unnamed.as_str())),
    );
    if let Some(path) = &repository.source.path {
        row(page, "folder", &escaped(path).to_string());
    }
    put!(page, "</dl>");
    for problem in repository.problems.iter().take(ROWS) {
        put!(page, "<p class=\"note\">{}</p>", escaped(problem));
    }
    findings(page, &repository.findings);
}

fn findings(page: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        put!(page, "<p>Nothing was found.</p>");
        return;
    }
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| {
        (
            std::cmp::Reverse(finding.severity),
            finding.rule,
            &finding.path,
        )
    });
    put!(
        page,
        "<div class=\"wide\"><table><thead><tr><th></th><th>rule</th><th>where</th><th>what</th></tr></thead><tbody>"
    );
    for finding in sorted.iter().take(ROWS) {
        put!(
            page,
            "<tr><td>{}</td><td class=\"rule\" title=\"{}\">{}</td><td class=\"path\">{}</td><td>{}</td></tr>",
            badge(finding),
            escaped(finding.rule.summary()),
            escaped(&finding.rule.to_string()),
            escaped(&finding.path),
            escaped(&finding.message)
        );
    }
    put!(page, "</tbody></table></div>");
    more(page, findings.len());
}

fn more(page: &mut String, all: usize) {
    if all > ROWS {
        put!(page, "<p>{} more are in the JSON form.</p>", all - ROWS);
    }
}

fn files(page: &mut String, repository: &Repository) {
    put!(
        page,
        "<div class=\"wide\"><table><thead><tr><th>file</th><th class=\"number\">size</th><th>SHA-256</th></tr></thead><tbody>"
    );
    for file in repository.files.iter().take(ROWS) {
        put!(
            page,
            "<tr><td class=\"path\">{}</td><td class=\"number\">{}</td><td><code>{}</code></td></tr>",
            escaped(&file.path),
            size(file.size),
            escaped(file.sha256.as_deref().unwrap_or("unknown"))
        );
    }
    put!(page, "</tbody></table></div>");
    more(page, repository.files.len());
}

fn side(page: &mut String, letter: &str, source: &Source) {
    row(page, letter, &escaped(&source.to_string()).to_string());
}

fn pair(page: &mut String, pair: &Pair) {
    put!(page, "<dl>");
    side(page, "A", &pair.a);
    side(page, "B", &pair.b);
    if let Some(base) = &pair.base {
        side(page, "base", base);
    }
    put!(page, "</dl>");
    put!(
        page,
        "<p class=\"verdict\">{} {}</p>",
        verdict(pair),
        escaped(&pair.statement)
    );
    let Some(measured) = &pair.measured else {
        return;
    };
    put!(page, "<ul>");
    for sentence in sentences(measured) {
        put!(page, "<li>{}</li>", escaped(&sentence));
    }
    for problem in &measured.evidence.problems {
        put!(
            page,
            "<li class=\"note\">Not read: {}</li>",
            escaped(problem)
        );
    }
    put!(page, "</ul>");
    pictures(page, pair, measured);
    weights(page, measured);
}

fn pictures(page: &mut String, pair: &Pair, measured: &Measured) {
    let grids = [
        pair.layers.as_ref().map(|layers| {
            (
                "Every layer beside every layer",
                "Along the diagonal lie the same layers of both models. A diagonal in full colour is what a copy looks like; \
                 fields in full colour beside it are layers that were moved. Estimated from sketches.",
                Grid::of_layers(layers),
            )
        }),
        Grid::of_weights(&measured.per_tensor).map(|grid| {
            (
                "Every weight of every layer",
                "Measured over all values. Some rows or columns in full colour and the others without is what a merge of parts looks like.",
                grid,
            )
        }),
    ];
    for (title, text, grid) in grids.into_iter().flatten() {
        let nothing = grid.cosines.iter().flatten().all(Option::is_none);
        if nothing {
            continue;
        }
        put!(
            page,
            "<figure>\n<figcaption><strong>{title}.</strong> {text}</figcaption>\n<div class=\"wide\">{}</div>\n\
             <p class=\"legend\"><span class=\"swatch against\"></span> opposite <span class=\"swatch none\"></span> \
             no change <span class=\"swatch faint\"></span> nothing in common <span class=\"swatch same\"></span> \
             the same direction</p>\n</figure>",
            grid.svg()
        );
    }
}

/// The weights that are changed most alike.
fn weights(page: &mut String, measured: &Measured) {
    const SHOWN: usize = 40;
    let mut weights: Vec<&TensorComparison> = measured
        .per_tensor
        .iter()
        .filter(|weight| weight.cosine.is_some())
        .collect();
    if weights.is_empty() {
        return;
    }
    weights.sort_by(|a, b| {
        let cosine = |weight: &TensorComparison| weight.cosine.unwrap_or_default();
        cosine(b).total_cmp(&cosine(a))
    });
    put!(
        page,
        "<details><summary>The {} weights that are changed most alike, of {}</summary>\n<div class=\"wide\"><table>\
         <thead><tr><th>weight</th><th>shape</th><th class=\"number\">cosine</th><th class=\"number\">A moved</th><th class=\"number\">B moved</th><th class=\"number\">of A in B</th>\
         </tr></thead><tbody>",
        weights.len().min(SHOWN),
        weights.len()
    );
    let figure = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
    for weight in weights.into_iter().take(SHOWN) {
        put!(
            page,
            "<tr><td class=\"path\">{}/{}</td><td>{:?}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            weight.component,
            escaped(&weight.name),
            weight.shape,
            figure(weight.cosine),
            figure(weight.moved_a),
            figure(weight.moved_b),
            figure(weight.coefficient)
        );
    }
    put!(page, "</tbody></table></div></details>");
}
