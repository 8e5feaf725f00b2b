//! `leoma-node audit preflight`: what a miner wants to know before paying for a registration.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::registry::RegistryArg;
use super::scan::CacheArgs;
use super::source::fetched;
use super::{ReportArgs, forms};
use crate::audit::compare::Thresholds;
use crate::audit::preflight::{ChainFile, Given, Submitted, preflight};
use crate::audit::report::{Body, Form};
use crate::audit::scan::{Options, Progress};

#[derive(Debug, Args)]
pub(in crate::cli) struct PreflightArgs {
    /// Folder of the model, or user/name@revision of the Hub.
    #[arg(value_name = "PATH|REPO@REV")]
    source: String,
    /// SS58 address of the hotkey that will commit.
    #[arg(long)]
    hotkey: String,
    /// Repository that will be committed, user/name.
    #[arg(long, value_name = "USER/NAME")]
    repo_id: String,
    /// Revision that will be committed: the full commit.
    #[arg(long, value_name = "SHA")]
    revision: String,
    /// Revision that the deployment reports.
    #[arg(long, value_name = "SHA")]
    deployed: Option<String>,
    /// What entrants fine-tune: folder, or user/name@revision. Without it the architecture is not compared, and
    /// disguised copies are not looked for.
    #[arg(long, value_name = "C", env = "LEOMA_NODE_AUDIT_BASE")]
    base: Option<String>,
    /// Another model to compare with, folder or user/name@revision; repeat.
    #[arg(long, value_name = "DIR|REPO@REV")]
    against: Vec<String>,
    /// The subnet's chain.toml: base, pipeline, locked keys, and the clip that is asked for.
    #[arg(long, value_name = "FILE")]
    chain_toml: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArg,
    #[command(flatten)]
    cache: CacheArgs,
    /// Form of the report.
    #[arg(long, value_parser = forms(false), default_value = "text", help_heading = "Report")]
    format: Form,
    #[command(flatten)]
    report: ReportArgs,
}

pub(super) fn run(args: &PreflightArgs) -> Result<ExitCode> {
    let show = args.report.show();
    let chain = args
        .chain_toml
        .as_deref()
        .map(ChainFile::read)
        .transpose()?;
    let registry = args.registry.existing()?;
    let base = args
        .base
        .as_deref()
        .map(|base| fetched(base, show))
        .transpose()?;
    let against = args.against.iter().map(|other| fetched(other, show));
    let against = against.collect::<Result<Vec<_>>>()?;
    let place = fetched(&args.source, show)?;
    let cache = args.cache.open()?;
    let bar = args.report.bar("preflight");
    let progress = |event: Progress<'_>| {
        if let Progress::Bytes(bytes) = event {
            bar.inc(bytes);
        }
        true
    };
    let submitted = Submitted {
        repo_id: args.repo_id.clone(),
        revision: args.revision.clone(),
        hotkey: args.hotkey.clone(),
        deployed: args.deployed.clone(),
    };
    let page = preflight(
        &place,
        &Given {
            submitted: &submitted,
            chain: chain.as_ref(),
            against: &against,
            registry: registry.as_ref(),
            scan: Options {
                base: base.as_ref(),
                cache: &cache,
                thresholds: &Thresholds::default(),
                known: None,
                progress: &progress,
            },
        },
    );
    bar.finish_and_clear();
    args.report
        .finish(Body::Preflight(Box::new(page?)), args.format)
}
