//! Arguments of `leoma-bench suite`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Clone, Args)]
pub(crate) struct SuiteArgs {
    /// Parts to run, by number [default: all]: 1 kernels, 2 tiny pipelines, 3 noise, 4 block, 5 attention, 6 VAE
    /// decode, 7 sampler steps, 8 memory plan.
    #[arg(long, value_delimiter = ',')]
    pub(crate) parts: Vec<u8>,
    /// Folder of the results, one JSON file per part.
    #[arg(long, default_value = "gpu-suite-results")]
    pub(crate) out: PathBuf,
    /// Folder with the tiny checkpoints and reference tensors.
    #[arg(long, default_value = "models/tests/fixtures")]
    pub(crate) data: PathBuf,
    /// Python with PyTorch; parts that need it are skipped, with the reason, where it is not there.
    #[arg(long, default_value = "python3")]
    pub(crate) python: PathBuf,
    /// Without a card: the kernels in the host shim, small shapes, no times.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// A program to run part 1 under as well, at small shapes [default: compute-sanitizer, where it is].
    #[arg(long)]
    pub(crate) sanitizer: Option<PathBuf>,
    /// Small shapes even on a card (for the sanitizer).
    #[arg(long)]
    pub(crate) small: bool,
    /// Runs this one part in this process.
    #[arg(long, hide = true)]
    pub(crate) one: Option<u8>,
    /// Seconds until the part must have ended by itself.
    #[arg(long, hide = true, default_value_t = 540)]
    pub(crate) seconds: u64,
}

impl SuiteArgs {
    /// The command line that runs one part of this suite.
    pub(crate) fn of_one(&self, number: u8, seconds: u64) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![
            "suite".into(),
            "--one".into(),
            number.to_string().into(),
            "--seconds".into(),
            seconds.to_string().into(),
            "--out".into(),
            self.out.clone().into(),
            "--data".into(),
            self.data.clone().into(),
            "--python".into(),
            self.python.clone().into(),
        ];
        if self.dry_run {
            line.push("--dry-run".into());
        }
        if self.small {
            line.push("--small".into());
        }
        if let Some(sanitizer) = &self.sanitizer {
            line.push("--sanitizer".into());
            line.push(sanitizer.clone().into());
        }
        line
    }
}
