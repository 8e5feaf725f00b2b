//! `leoma-node audit`: what a repository of weights holds, whether it keeps the rules, and whether it is a copy.
//!
//! Exit codes differ from those of the other commands: 0 clean, 1 found, 2 could not be audited; 130 interrupted.

mod compare;
mod hash;
mod preflight;
mod registry;
mod scan;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::hub::Show;
use crate::audit::finding::Severity;
use crate::audit::report::{Body, Form, Report};

const AFTER_HELP: &str = "\
Exit codes of these commands:
  0    clean: everything was read, and nothing of the severity of --fail-on or above was found
  1    found
  2    could not be audited: bad input, or something could not be read; nothing is called clean then
  130  interrupted";

#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum AuditCommand {
    /// Say what a repository holds: digests of its files, tensors and values, and the subnet's model hash.
    #[command(after_help = AFTER_HELP)]
    Hash(hash::HashArgs),
    /// Set two models beside each other: is one made from the other?
    #[command(after_help = AFTER_HELP)]
    Compare(compare::CompareArgs),
    /// Look through many repositories: contents, rules, and which of them are copies of each other.
    #[command(after_help = AFTER_HELP)]
    Scan(scan::ScanArgs),
    /// Keep a list of known models: digests, sketches, and who committed them when.
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// Before paying for a registration: does it load, on which cards, does it keep the rules, is it a copy?
    #[command(after_help = AFTER_HELP)]
    Preflight(Box<preflight::PreflightArgs>),
}

/// How an audit is reported; shared by all its commands.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// File for the report, instead of the standard output.
    #[arg(long, short, value_name = "FILE", help_heading = "Report")]
    output: Option<PathBuf>,
    /// Least severity of a finding that makes the exit code 1.
    #[arg(
        long,
        value_enum,
        default_value_t = FailOn::High,
        env = "LEOMA_NODE_AUDIT_FAIL_ON",
        help_heading = "Report"
    )]
    fail_on: FailOn,
    /// Where the docs folder of the sources is published: SARIF leads to the pages of the rules there.
    #[arg(
        long,
        value_name = "URL",
        env = "LEOMA_NODE_AUDIT_DOCS_URL",
        help_heading = "Report"
    )]
    docs_url: Option<String>,
    /// No progress bar.
    #[arg(long, env = "LEOMA_NODE_NO_PROGRESS", help_heading = "Report")]
    no_progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl From<FailOn> for Severity {
    fn from(fail_on: FailOn) -> Self {
        match fail_on {
            FailOn::Info => Self::Info,
            FailOn::Low => Self::Low,
            FailOn::Medium => Self::Medium,
            FailOn::High => Self::High,
            FailOn::Critical => Self::Critical,
        }
    }
}

/// The forms of a report; statements of in-toto are about one repository.
fn forms(in_toto: bool) -> impl TypedValueParser<Value = Form> {
    let names = Form::ALL
        .iter()
        .filter(move |(_, form)| in_toto || *form != Form::InToto)
        .map(|(name, _)| *name);
    PossibleValuesParser::new(names).try_map(|name| {
        let found = Form::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, form)| *form).ok_or("is no form of a report")
    })
}

pub(super) fn run(command: AuditCommand) -> Result<ExitCode> {
    let done = match command {
        AuditCommand::Hash(args) => hash::run(&args),
        AuditCommand::Compare(args) => compare::run(&args),
        AuditCommand::Scan(args) => scan::run(&args),
        AuditCommand::Registry(command) => registry::run(&command),
        AuditCommand::Preflight(args) => preflight::run(&args),
    };
    // What could not be audited is one case here, whosever fault it is.
    done.or_else(|error| match super::explain(&error) {
        130 => Ok(ExitCode::from(130)),
        _ => Ok(ExitCode::from(2)),
    })
}

impl ReportArgs {
    fn show(&self) -> Show {
        Show::new(self.no_progress)
    }

    /// Writes a report and says with the exit code how it ended.
    fn finish(&self, body: Body, form: Form) -> Result<ExitCode> {
        let mut report = Report::new(body, self.fail_on.into());
        report.docs_url.clone_from(&self.docs_url);
        let text = report.render(form)?;
        match &self.output {
            None => super::output(text.as_bytes())?,
            Some(path) => std::fs::write(path, text)
                .with_context(|| format!("output: cannot write {}", path.display()))?,
        }
        Ok(ExitCode::from(report.outcome.exit_code()))
    }

    /// A bar that counts bytes; silent where nobody looks at it.
    fn bar(&self, what: &'static str) -> ProgressBar {
        use std::io::IsTerminal;
        let visible = self.show() == Show::Progress && std::io::stderr().is_terminal();
        let target = if visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{prefix:>12} {decimal_bytes}  {decimal_bytes_per_sec}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar
    }
}
