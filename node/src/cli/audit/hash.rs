//! `leoma-node audit hash`: what a repository holds, to the bit.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::source::{Named, fetched, named};
use super::{ReportArgs, forms};
use crate::audit::identity::{self, Identity, identify};
use crate::audit::report::{Basis, Body, File, Form, Repository, Source};
use crate::audit::scan::Place;
use crate::audit::{Finding, Rule, model_hash};
use crate::cli::hub::{describe, settings};
use crate::hub::Described;

#[derive(Debug, Args)]
pub(in crate::cli) struct HashArgs {
    /// Folder, file, or user/name@revision of the Hub, which is downloaded where it is not there.
    #[arg(value_name = "PATH|REPO@REV")]
    source: String,
    /// Digests of files only, not of tensors and values.
    #[arg(long)]
    files_only: bool,
    /// Ask the Hub for the digests it has, and download nothing.
    #[arg(long)]
    metadata_only: bool,
    /// Form of the report.
    #[arg(long, value_parser = forms(true), default_value = "text", help_heading = "Report")]
    format: Form,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &HashArgs) -> Result<ExitCode> {
    let repository = if args.metadata_only {
        let Named::Hub(repo, revision) = named(&args.source)? else {
            let message = format!(
                "{} is not a repository of the Hub: write user/name@revision",
                args.source
            );
            return Err(crate::Error::caller("metadata-only", message).into());
        };
        of_metadata(describe(
            &settings()?,
            &repo,
            &revision,
            args.report.show(),
        )?)
    } else {
        let place = fetched(&args.source, args.report.show())?;
        let bar = args.report.bar("hash");
        let options = identity::Options {
            tensors: !args.files_only,
            progress: &|bytes| {
                bar.inc(bytes);
                true
            },
        };
        let identity = identify(&place.path, &options);
        bar.finish_and_clear();
        of_bytes(place, identity?, !args.files_only)
    };
    args.report
        .finish(Body::Hash(Box::new(repository)), args.format)
}

fn of_bytes(place: Place, identity: Identity, tensors: bool) -> Repository {
    let mut findings = identity.findings;
    findings.extend(no_weights(
        identity.files.iter().map(|file| file.path.as_str()),
    ));
    findings.sort();
    Repository {
        source: place.source,
        from: Basis::Bytes,
        model_hash: identity.model_hash,
        model_digest: identity.model_digest,
        files: identity.files.into_iter().map(Into::into).collect(),
        tensors: tensors.then_some(identity.tensors),
        findings,
        problems: identity.problems,
    }
}

fn of_metadata(described: Described) -> Repository {
    let files = &described.files;
    let hash = model_hash::of_listing(
        files
            .iter()
            .map(|file| (file.path.as_str(), file.sha256.as_deref())),
    );
    let large = files.iter().filter(|file| file.sha256.is_some());
    let findings = no_weights(large.map(|file| file.path.as_str()));
    Repository {
        source: Source {
            name: described.repo.to_string(),
            commit: Some(described.commit.to_string()),
            path: None,
        },
        from: Basis::Metadata,
        model_hash: hash,
        model_digest: None,
        findings: findings.into_iter().collect(),
        files: described
            .files
            .into_iter()
            .map(|file| File {
                path: file.path,
                size: file.size,
                sha256: file.sha256,
            })
            .collect(),
        tensors: None,
        problems: Vec::new(),
    }
}

/// A repository without weights has no hash, and the subnet refuses it.
fn no_weights<'a>(mut files: impl Iterator<Item = &'a str>) -> Option<Finding> {
    let none = !files.any(model_hash::is_weight_file);
    none.then(|| {
        Finding::new(
            Rule::NoWeights,
            "",
            "no weight file; there is no model hash",
        )
    })
}
