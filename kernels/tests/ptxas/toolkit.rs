//! nvcc and ptxas, and what ptxas says of a kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// What one kernel takes on one generation of cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// File name of the source without `.cu`.
    pub(crate) source: String,
    pub(crate) kernel: String,
    /// 80, 89, 90.
    pub(crate) architecture: u32,
    /// Per thread.
    pub(crate) registers: u32,
    /// Per thread.
    pub(crate) stack_bytes: u32,
    /// Per thread, stores and loads.
    pub(crate) spill_bytes: u32,
    /// Per block, static.
    pub(crate) shared_bytes: u32,
}

pub(crate) struct Toolkit {
    nvcc: PathBuf,
    ptxas: PathBuf,
}

impl Toolkit {
    /// The toolkit of `CUDA_HOME` or `CUDA_PATH`, else the one on the path.
    pub(crate) fn find() -> Option<Self> {
        let homes = ["CUDA_HOME", "CUDA_PATH"]
            .iter()
            .filter_map(env::var_os)
            .map(|home| PathBuf::from(home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        homes.chain(env::split_paths(&path)).find_map(|folder| {
            let (nvcc, ptxas) = (folder.join("nvcc"), folder.join("ptxas"));
            (nvcc.exists() && ptxas.exists()).then_some(Self { nvcc, ptxas })
        })
    }

    /// All kernels of all sources in `folder` on all `architectures`; two sources at a time.
    pub(crate) fn assemble_all(
        &self,
        folder: &Path,
        architectures: &[u32],
    ) -> Result<Vec<Usage>, String> {
        let mut sources: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
            .collect();
        sources.sort();
        let (even, odd): (Vec<_>, Vec<_>) = sources
            .iter()
            .enumerate()
            .partition(|(index, _)| index % 2 == 0);
        let assemble = |part: Vec<(usize, &PathBuf)>| -> Result<Vec<Usage>, String> {
            let mut found = Vec::new();
            for (_, source) in part {
                found.extend(self.assemble(folder, source, architectures)?);
            }
            Ok(found)
        };
        let (a, b) = thread::scope(|scope| {
            let other = scope.spawn(|| assemble(odd));
            (assemble(even), other.join())
        });
        let mut found = a?;
        found.extend(b.map_err(|_| "the second thread panicked".to_owned())??);
        found.sort_by(|a, b| {
            (&a.source, &a.kernel, a.architecture).cmp(&(&b.source, &b.kernel, b.architecture))
        });
        Ok(found)
    }

    fn assemble(
        &self,
        folder: &Path,
        source: &Path,
        architectures: &[u32],
    ) -> Result<Vec<Usage>, String> {
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        let ptx = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("budget-{name}.ptx"));
        // The flags of build.rs: what is measured must be what is shipped.
        let mut nvcc = Command::new(&self.nvcc);
        nvcc.args(["-ptx", "-O3", "--std=c++17", "-arch", "compute_80"])
            .args(["-Werror", "all-warnings"])
            .arg("-I")
            .arg(folder)
            .arg("-o")
            .arg(&ptx)
            .arg(source);
        if let Some(compiler) = env::var_os("NVCC_CCBIN") {
            nvcc.arg("-ccbin").arg(compiler);
        }
        run(&mut nvcc)?;
        let mut found = Vec::new();
        for &architecture in architectures {
            let report = run(Command::new(&self.ptxas)
                .arg(format!("-arch=sm_{architecture}"))
                .arg("-v")
                .arg(&ptx)
                .args(["-o", "/dev/null"]))?;
            let kernels = parse(&name, architecture, &report)?;
            if kernels.is_empty() {
                return Err(format!("{name}.cu has no kernel for sm_{architecture}"));
            }
            found.extend(kernels);
        }
        Ok(found)
    }
}

/// Runs a compiler; what it wrote to standard error.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{command:?} failed:\n{text}"))
    }
}

/// Reads what `ptxas -v` reports.
pub(crate) fn parse(source: &str, architecture: u32, report: &str) -> Result<Vec<Usage>, String> {
    let mut found: Vec<Usage> = Vec::new();
    // Whether the last kernel's registers have come.
    let mut complete = true;
    for line in report.lines() {
        let text = line.strip_prefix("ptxas info").unwrap_or(line);
        let text = text.trim_start_matches([' ', ':']);
        if let Some(rest) = text.strip_prefix("Compiling entry function '") {
            if !complete {
                break;
            }
            let kernel = rest.split('\'').next().unwrap_or_default();
            found.push(Usage {
                source: source.to_owned(),
                kernel: kernel.to_owned(),
                architecture,
                registers: 0,
                stack_bytes: 0,
                spill_bytes: 0,
                shared_bytes: 0,
            });
            complete = false;
        } else if text.contains("bytes stack frame") {
            if let Some(last) = found.last_mut().filter(|_| !complete) {
                last.stack_bytes = before(text, " bytes stack frame")?;
                last.spill_bytes =
                    before(text, " bytes spill stores")? + before(text, " bytes spill loads")?;
            }
        } else if text.starts_with("Used ") {
            let Some(last) = found.last_mut().filter(|_| !complete) else {
                return Err(format!("figures of no kernel in ptxas' report: {line}"));
            };
            last.registers = before(text, " registers")?;
            if text.contains(" bytes smem") {
                last.shared_bytes = before(text, " bytes smem")?;
            }
            complete = true;
        }
    }
    if complete {
        Ok(found)
    } else {
        Err(format!("ptxas' report on {source} ends early:\n{report}"))
    }
}

/// The number right before `unit`.
fn before(text: &str, unit: &str) -> Result<u32, String> {
    text.split(unit)
        .next()
        .and_then(|head| head.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("no number before `{unit}` in ptxas' line: {text}"))
}
