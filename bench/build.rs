//! Records the compiler and target features that the benchmark was built with.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    println!("cargo:rustc-env=LEOMA_BENCH_RUSTC={}", version.trim());
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    println!("cargo:rustc-env=LEOMA_BENCH_TARGET_FEATURES={features}");
    let profile = std::env::var("PROFILE").unwrap_or_default();
    println!("cargo:rustc-env=LEOMA_BENCH_PROFILE={profile}");
}
