//! `leoma-node audit scan`: many repositories at once.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::registry::RegistryArg;
use super::source::{Named, fetched, named};
use super::{ReportArgs, forms};
use crate::audit::compare::Thresholds;
use crate::audit::report::{Body, Form};
use crate::audit::scan::{Cache, Options, Place, Probe, Progress, find, scan};
use crate::cli::hub::Show;
use crate::cli::layers::process_env;

#[derive(Debug, Args)]
pub(in crate::cli) struct ScanArgs {
    /// Repositories, folders that hold some, a cache of the Hub, or user/name@revision. A folder with files of its
    /// own is a repository, one with folders only is looked into.
    #[arg(value_name = "DIR|REPO@REV", required = true)]
    sources: Vec<String>,
    /// What all of them were made from. Without it only equal weights are recognised.
    #[arg(long, value_name = "C", env = "LEOMA_NODE_AUDIT_BASE")]
    base: Option<String>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    registry: RegistryArg,
    /// Form of the report.
    #[arg(long, value_parser = forms(false), default_value = "text", help_heading = "Report")]
    format: Form,
    #[command(flatten)]
    report: ReportArgs,
}

/// What earlier audits found; shared by the commands that read whole repositories.
#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Folder that remembers what earlier scans found; default leoma-node/audit in $XDG_CACHE_HOME or ~/.cache.
    #[arg(long, value_name = "DIR", env = "LEOMA_NODE_AUDIT_CACHE")]
    cache: Option<PathBuf>,
    /// Read everything, and remember nothing.
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl CacheArgs {
    pub(super) fn open(&self) -> Result<Cache> {
        if self.no_cache {
            return Ok(Cache::none());
        }
        match self.cache.clone().or_else(default_cache) {
            Some(folder) => Ok(Cache::open(&folder)?),
            None => Ok(Cache::none()),
        }
    }
}

pub(super) fn run(args: &ScanArgs) -> Result<ExitCode> {
    let show = args.report.show();
    let base = args
        .base
        .as_deref()
        .map(|base| fetched(base, show))
        .transpose()?;
    let mut places: Vec<Place> = Vec::new();
    for source in &args.sources {
        for place in found(source, show)? {
            // Named twice, or the base among the others.
            let is_base = base
                .as_ref()
                .is_some_and(|base| same(&base.path, &place.path));
            if !is_base && !places.iter().any(|other| same(&other.path, &place.path)) {
                places.push(place);
            }
        }
    }
    if places.is_empty() {
        let message = "there is nothing to scan beside the base";
        return Err(crate::Error::caller("DIR", message).into());
    }
    let cache = args.cache.open()?;
    let registry = args.registry.existing()?;
    let failed = RefCell::new(None);
    let known = |probe: Probe<'_>| {
        let Some(registry) = &registry else {
            return Vec::new();
        };
        registry.known(&probe).unwrap_or_else(|error| {
            failed.replace(Some(error));
            Vec::new()
        })
    };
    let bar = args.report.bar("scan");
    let total = places.len() + usize::from(base.is_some());
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let progress = |event: Progress<'_>| {
        match event {
            Progress::Repository(source, _) => {
                let number = begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                bar.set_message(format!("{number} of {total}: {source}"));
            }
            Progress::Bytes(bytes) => bar.inc(bytes),
            Progress::Pair(done, total) => bar.set_message(format!("pair {} of {total}", done + 1)),
            Progress::Weights(..) => {}
        }
        true
    };
    let options = Options {
        base: base.as_ref(),
        cache: &cache,
        thresholds: &Thresholds::default(),
        known: Some(&known),
        progress: &progress,
    };
    let scanned = scan(&places, &options);
    bar.finish_and_clear();
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    args.report
        .finish(Body::Scan(Box::new(scanned?)), args.format)
}

fn found(source: &str, show: Show) -> Result<Vec<Place>> {
    match named(source)? {
        // What is not there is said in the report, beside what could be scanned.
        Named::Local(place) if !place.path.exists() => Ok(vec![place]),
        Named::Local(place) => Ok(find(&place.path)?),
        Named::Hub(..) => Ok(vec![fetched(source, show)?]),
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}

fn default_cache() -> Option<PathBuf> {
    let path = |name| {
        process_env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let caches = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
    Some(caches.join("leoma-node/audit"))
}
