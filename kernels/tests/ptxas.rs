//! What the kernels of `cuda/` cost on a card, without one: every source is compiled to PTX, as the build
//! does it, and assembled for sm_80, sm_89 and sm_90; registers, spills, stack frame and shared memory are
//! held against `cuda/budgets.toml`.
//!
//! Needs nvcc and ptxas (`CUDA_HOME`, `CUDA_PATH` or `PATH`). Where they are missing the test says that it
//! was left out, unless `LEOMA_TEST_CUDA=1` requires it.
#![allow(clippy::unwrap_used)]

#[path = "ptxas/budget.rs"]
mod budget;
#[path = "ptxas/toolkit.rs"]
mod toolkit;

use std::path::Path;

use budget::{Budgets, problems};
use toolkit::{Toolkit, Usage};

/// The generations of cards that the kernels must fit.
const ARCHITECTURES: [u32; 3] = [80, 89, 90];

/// Required where this is `1`: a toolkit that is missing is then a failure.
const REQUIRED: &str = "LEOMA_TEST_CUDA";

#[test]
fn every_kernel_keeps_to_its_budget() {
    let Some(toolkit) = Toolkit::find() else {
        assert!(
            std::env::var(REQUIRED).as_deref() != Ok("1"),
            "{REQUIRED}=1, but no nvcc with ptxas was found in CUDA_HOME, CUDA_PATH or PATH; source \
             scripts/cuda-env first"
        );
        let mut out = std::io::stderr().lock();
        std::io::Write::write_all(
            &mut out,
            b"LEFT OUT: no nvcc and ptxas in CUDA_HOME, CUDA_PATH or PATH; the kernels' registers, spills \
              and shared memory were not checked\n",
        )
        .unwrap();
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let found = toolkit.assemble_all(&folder, &ARCHITECTURES).unwrap();
    assert!(!found.is_empty(), "no kernels in {}", folder.display());
    let file = folder.join("budgets.toml");
    let budgets = Budgets::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let problems = problems(&budgets, &found);
    assert!(
        problems.is_empty(),
        "{} is not kept to:\n{}\n\nlines for what was measured (read them before you take them over):\n{}",
        file.display(),
        problems.join("\n"),
        budget::suggestion(&found)
    );
}

fn usage(kernel: &str, architecture: u32) -> Usage {
    Usage {
        source: "norm".to_owned(),
        kernel: kernel.to_owned(),
        architecture,
        registers: 40,
        stack_bytes: 0,
        spill_bytes: 0,
        shared_bytes: 128,
    }
}

const GOOD: &str = "[norm.norm_f32]\nthreads = 256\nregisters = 40\nshared_bytes = 128\n";

fn check(budgets: &str, found: &[Usage]) -> Vec<String> {
    problems(&Budgets::parse(budgets).unwrap(), found)
}

#[test]
fn what_fits_passes() {
    let found = [usage("norm_f32", 80), usage("norm_f32", 90)];
    assert_eq!(check(GOOD, &found), Vec::<String>::new());
    // One line may serve all element types.
    let family = "[norm.\"norm_*\"]\nthreads = 256\nregisters = 40\nshared_bytes = 128\n";
    let found = [usage("norm_f32", 80), usage("norm_bf16", 80)];
    assert_eq!(check(family, &found), Vec::<String>::new());
    // The longer pattern counts.
    let wider = family.replace("40", "48");
    let mut found = found;
    found[1].registers = 48;
    let both = format!("{GOOD}{wider}");
    assert_eq!(check(&both, &found), Vec::<String>::new());
    found[0].registers = 41;
    assert!(check(&both, &found)[0].contains("norm_f32 (sm_80): 41 registers"));
}

#[test]
fn what_does_not_fit_is_named() {
    let with = |change: &dyn Fn(&mut Usage)| {
        let mut one = usage("norm_f32", 89);
        change(&mut one);
        check(GOOD, &[one]).join("\n")
    };
    assert!(with(&|u| u.registers = 41).contains("norm_f32 (sm_89): 41 registers, budget 40"));
    assert!(with(&|u| u.spill_bytes = 8).contains("8 bytes of spills"));
    assert!(with(&|u| u.stack_bytes = 16).contains("16 bytes of stack"));
    assert!(with(&|u| u.shared_bytes = 256).contains("256 bytes of static shared memory"));
    // Too generous.
    assert!(with(&|u| u.registers = 24).contains("at most 24"));
    assert!(with(&|u| u.shared_bytes = 0).contains("at most 0"));
    // No budget, and a budget of nothing.
    let problems = check(GOOD, &[usage("norm_f32", 80), usage("other", 80)]);
    assert!(problems[0].contains("other has no budget"), "{problems:?}");
    let problems = check(
        &format!("{GOOD}[norm.gone]\nthreads = 32\nregisters = 8\n"),
        &[usage("norm_f32", 80)],
    );
    assert!(problems[0].contains("norm.gone"), "{problems:?}");
}

#[test]
fn a_block_must_fit_a_multiprocessor() {
    // 1024 threads of 72 registers are 72 Ki: more than there are.
    let budgets = "[norm.norm_f32]\nthreads = 1024\nregisters = 72\nshared_bytes = 128\n";
    let mut one = usage("norm_f32", 80);
    one.registers = 72;
    assert!(check(budgets, &[one])[0].contains("cannot be launched"));
    // 110 KiB: there on sm_80 and sm_90, not on sm_89.
    let budgets = format!("{GOOD}dynamic_shared_bytes = {}\n", 110 << 10);
    let all = ARCHITECTURES.map(|architecture| usage("norm_f32", architecture));
    let problems = check(&budgets, &all);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("sm_89"));
    // A kernel that is meant for some cards only is checked on those.
    let problems = check(&format!("{budgets}only = [80, 90]\n"), &all);
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn a_cold_kernel_may_be_allowed_a_stack() {
    let budgets = format!("{GOOD}hot = false\nstack_bytes = 16\n");
    let mut one = usage("norm_f32", 80);
    one.stack_bytes = 16;
    assert_eq!(check(&budgets, &[one]), Vec::<String>::new());
    // A hot one may not.
    let error = Budgets::parse(&format!("{GOOD}stack_bytes = 16\n")).unwrap_err();
    assert!(error.contains("hot"), "{error}");
    let error = Budgets::parse(&format!("{GOOD}register = 16\n")).unwrap_err();
    assert!(error.contains("`register`"), "{error}");
}

#[test]
fn the_report_of_ptxas_is_understood() {
    let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'norm_f32' for 'sm_90'
ptxas info    : Function properties for norm_f32
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 16 bytes cumulative stack size, 128 bytes smem
ptxas info    : Compile time = 31.378 ms
ptxas info    : Compiling entry function 'norm_bf16' for 'sm_90'
ptxas info    : Function properties for norm_bf16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
";
    let found = toolkit::parse("norm", 90, report).unwrap();
    let mut first = usage("norm_f32", 90);
    (first.registers, first.stack_bytes, first.spill_bytes) = (32, 16, 20);
    let mut second = usage("norm_bf16", 90);
    (second.registers, second.shared_bytes) = (8, 0);
    assert_eq!(found, [first, second]);
    assert!(toolkit::parse("norm", 90, "ptxas info    : Used some registers").is_err());
    // A kernel whose figures never came is an error, not a kernel without cost.
    let cut = report.split("ptxas info    : Used 8").next().unwrap();
    assert!(toolkit::parse("norm", 90, cut).is_err());
}
