//! Compiles `cuda/*.cu`: to PTX for the card (feature `cuda`, needs nvcc), and as C++ for the host shim
//! (feature `shim`, needs a C++ compiler).

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest architecture whose code the driver translates for every newer card. Sources that need more say
/// so in their name and are chosen at run time.
const ARCHITECTURE: &str = "compute_80";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cuda");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let sources = sources(Path::new("cuda"))?;
    if cfg!(feature = "cuda") {
        ptx(&sources, &out)?;
    }
    #[cfg(feature = "shim")]
    shim(&sources, &out)?;
    Ok(())
}

/// `cuda/*.cu` by name.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn stem(source: &Path) -> String {
    source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// One PTX text per source and a table of them, `ptx.rs`.
fn ptx(sources: &[PathBuf], out: &Path) -> Result<(), Box<dyn Error>> {
    for variable in ["CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let nvcc = nvcc();
    let mut table = String::from(
        "/// Name and PTX text of every source in `cuda`.\npub(crate) const PTX: &[(&str, &str)] = &[\n",
    );
    let mut running = Vec::new();
    for source in sources {
        let target = out.join(stem(source)).with_extension("ptx");
        let mut command = Command::new(&nvcc);
        command
            .args([
                "-ptx",
                "-O3",
                "--std=c++17",
                "-Icuda",
                "-arch",
                ARCHITECTURE,
            ])
            .args(["-Werror", "all-warnings"])
            .arg("-o")
            .arg(&target)
            .arg(source);
        if let Some(compiler) = env::var_os("NVCC_CCBIN") {
            command.arg("-ccbin").arg(compiler);
        }
        let child = command.spawn().map_err(|error| {
            format!(
                "cannot run {}: {error}; install a CUDA toolkit and set CUDA_HOME, or source scripts/cuda-env",
                nvcc.display()
            )
        })?;
        running.push((source, child));
        writeln!(
            table,
            "    ({:?}, include_str!({:?})),",
            stem(source),
            target.display().to_string()
        )?;
    }
    for (source, mut child) in running {
        if !child.wait()?.success() {
            return Err(format!("nvcc failed on {}", source.display()).into());
        }
    }
    table.push_str("];\n");
    fs::write(out.join("ptx.rs"), table)?;
    Ok(())
}

/// The toolkit's nvcc: of `CUDA_HOME` or `CUDA_PATH`, else the one on the path.
fn nvcc() -> PathBuf {
    ["CUDA_HOME", "CUDA_PATH"]
        .iter()
        .filter_map(env::var_os)
        .map(|home| PathBuf::from(home).join("bin/nvcc"))
        .find(|path| path.exists())
        .unwrap_or_else(|| "nvcc".into())
}

/// All sources in one C++ file, each in a namespace of its own: they share names like `kRows`.
#[cfg(feature = "shim")]
fn shim(sources: &[PathBuf], out: &Path) -> Result<(), Box<dyn Error>> {
    let mut all =
        String::from("#include \"shim.cpp\"\n#include \"common.cuh\"\n#include \"mma.cuh\"\n");
    for source in sources {
        let name = stem(source);
        writeln!(
            all,
            "namespace source_{name} {{\n#include \"{name}.cu\"\n}}"
        )?;
    }
    let file = out.join("shim_all.cpp");
    fs::write(&file, all)?;
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include("cuda")
        .define("LEOMA_SHIM", None)
        // Operations must round one by one, as the twins do.
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .opt_level(2)
        .warnings(true)
        .file(file)
        .try_compile("leoma_shim")?;
    Ok(())
}
