//! The dry run of the suite through the real program: the parts that need no PyTorch and are quick.
#![cfg(feature = "shim")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_dry_run_passes_and_leaves_its_files() {
    let out = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let output = Command::new(env!("CARGO_BIN_EXE_leoma-bench"))
        .args([
            "suite",
            "--dry-run",
            "--parts",
            "1,3",
            "--python",
            "/nowhere/python3",
        ])
        .arg("--data")
        .arg(fixtures)
        .arg("--out")
        .arg(out.path())
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}\n{log}");
    assert!(
        table.contains("1 kernels (dry run)") && table.contains("3 noise (dry run)"),
        "{table}"
    );
    assert!(table.contains("no PyTorch"), "{table}");
    let mut files: Vec<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["part-1-kernels.json", "part-3-noise.json"]);
    let kernels = std::fs::read_to_string(out.path().join("part-1-kernels.json")).unwrap();
    assert!(
        kernels.contains("attention") && kernels.contains("conv3d"),
        "{kernels}"
    );
}
