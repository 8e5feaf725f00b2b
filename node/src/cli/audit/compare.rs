//! `leoma-node audit compare`: two models beside each other.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::source::{closed, fetched};
use super::{ReportArgs, forms};
use crate::audit::compare::layers::Layers;
use crate::audit::compare::sketch::Sketch;
use crate::audit::compare::{Thresholds, compare};
use crate::audit::report::{Body, Form, Pair};
use crate::audit::scan::Place;

#[derive(Debug, Args)]
pub(in crate::cli) struct CompareArgs {
    /// One model: folder, file, or user/name@revision of the Hub.
    #[arg(value_name = "A")]
    a: String,
    /// The other.
    #[arg(value_name = "B")]
    b: String,
    /// What both were made from. Without it only equal weights are recognised.
    #[arg(long, value_name = "C", env = "LEOMA_NODE_AUDIT_BASE")]
    base: Option<String>,
    /// Form of the report; html reads the models a second time, for a picture of every layer beside every layer.
    #[arg(long, value_parser = forms(false), default_value = "text", help_heading = "Report")]
    format: Form,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &CompareArgs) -> Result<ExitCode> {
    let show = args.report.show();
    let (a, b) = (fetched(&args.a, show)?, fetched(&args.b, show)?);
    let base = args
        .base
        .as_deref()
        .map(|base| fetched(base, show))
        .transpose()?;
    for place in [Some(&a), Some(&b), base.as_ref()].into_iter().flatten() {
        closed(place)?;
    }
    let bar = args.report.bar("compare");
    let progress = |done, total| {
        bar.set_message(format!("{done} of {total} weights"));
        true
    };
    let base_path = base.as_ref().map(|base| base.path.as_path());
    let thresholds = Thresholds::default();
    let compared = compare(&a.path, &b.path, base_path, &thresholds, &progress);
    bar.finish_and_clear();
    let base_source = base.as_ref().map(|base| base.source.clone());
    let mut pair = Pair::of(a.source.clone(), b.source.clone(), base_source, compared?);
    if let (Form::Html, Some(base)) = (args.format, &base) {
        pair.layers = layers(&a, &b, base)?;
    }
    args.report
        .finish(Body::Compare(Box::new(pair)), args.format)
}

fn layers(a: &Place, b: &Place, base: &Place) -> Result<Option<Layers>> {
    let [a, b, base] = [a, b, base].map(|place| Sketch::of(&place.path));
    Ok(Layers::of(&a?, &b?, &base?))
}
