//! Figures in words, for the forms that people read.

use super::Measured;
use crate::report::words::count;

/// A number of bytes for people.
pub(in crate::audit) fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// The figures that a verdict rests on, as plain sentences.
pub(super) fn sentences(measured: &Measured) -> Vec<String> {
    let e = &measured.evidence;
    let networks: Vec<_> = e.networks.iter().map(ToString::to_string).collect();
    let mut all = Vec::new();
    if !networks.is_empty() {
        all.push(format!(
            "{} of {} were compared, {:.1} % of what is in either; {:.1} % of them have the same values.",
            count(e.tensors, "weight"),
            networks.join(", "),
            100.0 * e.comparable_share,
            100.0 * e.equal_share
        ));
    }
    if let (Some(a), Some(b)) = (e.moved_a, e.moved_b) {
        all.push(format!(
            "A has moved {:.3} % of its size away from the base, B {:.3} %.",
            100.0 * a,
            100.0 * b
        ));
    }
    if let Some(cosine) = e.cosine {
        let median = e.median_cosine.map_or_else(String::new, |median| {
            format!("; half of the matrices lie at or above {median:.3}")
        });
        all.push(format!(
            "The directions of the two differences have a cosine of {cosine:.3}{median}. 1 is the same direction, \
             0 nothing in common; from {} on this counts as one being the other with small changes, up to {} as \
             independent.",
            measured.thresholds.perturbed, measured.thresholds.independent
        ));
    }
    if let (Some(coefficient), Some(spread)) = (e.coefficient, e.coefficient_spread) {
        all.push(format!(
            "B holds {coefficient:.2} of A's difference, with a spread of {:.0} % over the matrices{}.",
            100.0 * spread,
            e.reverse_coefficient
                .map_or_else(String::new, |reverse| format!("; A holds {reverse:.2} of B's"))
        ));
    }
    if e.copied_share > 0.0 {
        all.push(format!(
            "{:.0} % of what was changed is changed in the same way in both.",
            100.0 * e.copied_share
        ));
    }
    if let (Some([a, b, between]), Some(side)) = (e.directions, e.directions_of) {
        all.push(format!(
            "In blocks of {side} by {side}, A differs from the base in about {a:.0} directions, B in {b:.0}, and \
             the two from each other in {between:.0}."
        ));
    }
    for (what, weights) in &e.undone {
        all.push(format!(
            "{} lay far from the base until this was undone: {}.",
            count(*weights, "weight"),
            what.replace('_', " ")
        ));
    }
    if e.displaced_share > 0.0 {
        all.push(format!(
            "{:.1} % of the weights lie far from the base for no reason that is known.",
            100.0 * e.displaced_share
        ));
    }
    if let Some(rate) = measured.error_rate {
        all.push(format!(
            "On a labelled set of small models these limits accused {} of {} pairs that are no copies and missed {} of \
             {} copies; docs/audit.md says what the set does not cover.",
            rate.accused, rate.others, rate.missed, rate.copies
        ));
    }
    all
}
