//! Likeness as a picture: a field for every pair of layers, or for every weight of every layer. Inline SVG
//! without a script; colours come from the page, so that they fit light and dark.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::audit::compare::TensorComparison;
use crate::audit::compare::layers::Layers;
use crate::report::html::escaped;

/// Width that a picture may take, and sides of its fields, in its own units.
const WIDTH: usize = 900;
const FIELDS: std::ops::RangeInclusive<usize> = 12..=28;
/// Width of a letter of a name, and of what is left free.
const LETTER: usize = 7;
const MARGIN: usize = 8;

/// Rows and columns of cosines.
#[derive(Debug)]
pub(super) struct Grid {
    /// What the picture shows, for those who cannot see it.
    pub(super) title: String,
    pub(super) rows: Vec<String>,
    pub(super) columns: Vec<String>,
    /// By row; none where there is nothing to compare.
    pub(super) cosines: Vec<Vec<Option<f64>>>,
}

impl Grid {
    /// Every layer of A beside every layer of B.
    pub(super) fn of_layers(layers: &Layers) -> Self {
        Self {
            title:
                "Cosine between the differences from the base: layers of A down, layers of B across"
                    .into(),
            rows: layers.names.clone(),
            columns: layers.names.clone(),
            cosines: layers
                .cosines
                .iter()
                .map(|row| row.iter().map(|cosine| cosine.map(f64::from)).collect())
                .collect(),
        }
    }

    /// Every weight of the transformers by layer. None when no weight is in a layer.
    pub(super) fn of_weights(weights: &[TensorComparison]) -> Option<Self> {
        let mut fields: BTreeMap<(String, usize), BTreeMap<&str, f64>> = BTreeMap::new();
        let mut columns: BTreeSet<&str> = BTreeSet::new();
        for weight in weights {
            let component = weight.component.to_string();
            let Some((number, within)) = weight
                .name
                .strip_prefix("blocks.")
                .filter(|_| component.starts_with("transformer"))
                .and_then(|name| name.split_once('.'))
            else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            let Some(within) = within.strip_suffix(".weight") else {
                continue;
            };
            columns.insert(within);
            let row = fields.entry((component, number)).or_default();
            if let Some(cosine) = weight.cosine {
                row.insert(within, cosine);
            }
        }
        (!fields.is_empty()).then(|| Self {
            title: "Cosine between the differences from the base: layers down, weights of a layer across".into(),
            rows: fields
                .keys()
                .map(|(component, number)| format!("{component} {number}"))
                .collect(),
            cosines: fields
                .values()
                .map(|row| columns.iter().map(|name| row.get(name).copied()).collect())
                .collect(),
            columns: columns.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The picture.
    pub(super) fn svg(&self) -> String {
        let room = |names: &[String]| {
            let longest = names.iter().map(|name| name.chars().count()).max();
            LETTER * longest.unwrap_or(0) + MARGIN
        };
        let (left, top) = (room(&self.rows), room(&self.columns));
        let side = (WIDTH.saturating_sub(left) / self.columns.len().max(1))
            .clamp(*FIELDS.start(), *FIELDS.end());
        let (width, height) = (
            left + side * self.columns.len() + MARGIN,
            top + side * self.rows.len() + MARGIN,
        );
        let title = escaped(&self.title);
        let mut svg = format!(
            "<svg class=\"picture\" role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\">\n<title>{title}</title>\n"
        );
        // Letters stand a little lower than the middle of their line.
        let middle = side / 2 + 4;
        for (row, name) in self.rows.iter().enumerate() {
            let (x, y) = (left - MARGIN / 2, top + side * row + middle);
            let name = escaped(name);
            // Writing into a text cannot fail.
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{name}</text>"
            );
        }
        for (column, name) in self.columns.iter().enumerate() {
            let (x, y) = (left + side * column + middle, top - MARGIN / 2);
            let name = escaped(name);
            let _ = writeln!(
                svg,
                "<text transform=\"translate({x} {y}) rotate(-90)\">{name}</text>"
            );
        }
        for ((row, cosines), row_name) in self.cosines.iter().enumerate().zip(&self.rows) {
            for ((column, cosine), column_name) in cosines.iter().enumerate().zip(&self.columns) {
                let place = (left + side * column, top + side * row);
                field(&mut svg, place, side - 1, [row_name, column_name], *cosine);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn field(
    svg: &mut String,
    (x, y): (usize, usize),
    side: usize,
    [row, column]: [&String; 2],
    cosine: Option<f64>,
) {
    let (row, column) = (escaped(row), escaped(column));
    let (class, opacity, what) = match cosine.filter(|cosine| cosine.is_finite()) {
        None => ("none", 1.0, "no change to compare".to_owned()),
        Some(cosine) => (
            if cosine < 0.0 { "against" } else { "same" },
            cosine.abs().clamp(0.04, 1.0),
            format!("{cosine:.3}"),
        ),
    };
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" \
         fill-opacity=\"{opacity:.2}\"><title>{row}, {column}: {what}</title></rect>"
    );
}
