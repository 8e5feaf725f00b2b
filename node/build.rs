//! Records the commit the program is built from, for `/info` and bug reports.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LEOMA_GIT_SHA");
    // A build outside a checkout (a container, a release archive) may name the commit itself.
    let sha = std::env::var("LEOMA_GIT_SHA").ok().or_else(|| {
        let git = |args: &[&str]| {
            let output = Command::new("git").args(args).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| text.trim().to_owned())
        };
        // Changes with every commit and checkout of a branch.
        if let Some(log) =
            git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists())
        {
            println!("cargo:rerun-if-changed={log}");
        }
        git(&["rev-parse", "HEAD"])
    });
    if let Some(sha) =
        sha.filter(|sha| sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        println!("cargo:rustc-env=LEOMA_GIT_SHA={sha}");
    }
}
