//! cuDNN's protocol against a library that records and checks every call (`tests/fake_cudnn.c`), in the
//! host shim: what is set on which descriptor, in which order and number; the numbers that come out; and
//! a failure at every single call.
#![allow(clippy::unwrap_used)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Tensor};

use super::{Error, Library, SONAME, Version, directories, sdpa, with_library};
use crate::device::{Target, target, with_shim};
use crate::samples::samples;

/// A fake cuDNN of its own for one test.
pub(crate) struct Fake {
    pub(crate) library: Arc<Library>,
    controls: libloading::Library,
    folder: PathBuf,
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Fake {
    pub(crate) fn new() -> Self {
        let folder = build(&[]);
        let library = Library::open(std::slice::from_ref(&folder)).unwrap();
        // SAFETY: the library that has just been built; opened a second time it is the same one.
        let controls = unsafe { libloading::Library::new(folder.join(SONAME)) }.unwrap();
        Self {
            library,
            controls,
            folder,
        }
    }

    /// Every `set kind.attribute xcount`, `finalize kind` and `execute` so far.
    fn journal(&self) -> Vec<String> {
        // SAFETY: the function of fake_cudnn.c with this signature; the string lives as long as it.
        let text = unsafe {
            let journal = self
                .controls
                .get::<unsafe extern "C" fn() -> *const c_char>(b"fake_journal\0")
                .unwrap();
            CStr::from_ptr(journal())
        };
        text.to_str().unwrap().lines().map(str::to_owned).collect()
    }

    pub(crate) fn executions(&self) -> usize {
        let journal = self.journal();
        journal.iter().filter(|line| *line == "execute").count()
    }

    /// Descriptors and handles that nobody has destroyed.
    fn live(&self) -> c_int {
        // SAFETY: as above.
        unsafe {
            self.controls
                .get::<unsafe extern "C" fn() -> c_int>(b"fake_live\0")
                .unwrap()()
        }
    }

    /// The `at`-th `call` from now fails with `status`.
    pub(crate) fn fail(&self, call: &str, at: c_int, status: c_int) {
        let call = CString::new(call).unwrap();
        // SAFETY: as above.
        unsafe {
            self.controls
                .get::<unsafe extern "C" fn(*const c_char, c_int, c_int)>(b"fake_failure\0")
                .unwrap()(call.as_ptr(), at, status);
        }
    }

    fn engines(&self, count: c_int, refused: c_int, workspace: i64, noted: c_int, note: c_int) {
        type Control = unsafe extern "C" fn(c_int, c_int, i64, c_int, c_int);
        // SAFETY: as above.
        unsafe {
            self.controls.get::<Control>(b"fake_engines\0").unwrap()(
                count, refused, workspace, noted, note,
            );
        }
    }

    /// The same library opened once more, after its version was set to `number`.
    pub(crate) fn of_version(number: c_int) -> Self {
        let mut fake = Self::new();
        // SAFETY: as above.
        unsafe {
            fake.controls
                .get::<unsafe extern "C" fn(c_int)>(b"fake_version\0")
                .unwrap()(number);
        }
        fake.library = Library::open(std::slice::from_ref(&fake.folder)).unwrap();
        fake
    }
}

/// Compiles the fake into a new folder.
fn build(flags: &[&str]) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let folder = std::env::temp_dir().join(format!(
        "leoma-fake-cudnn-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cudnn.c");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-fvisibility=hidden"])
        .args(flags)
        .arg("-o")
        .arg(folder.join(SONAME))
        .arg(source)
        .arg("-lm")
        .status()
        .unwrap();
    assert!(done.success(), "cc failed");
    folder
}

fn values(shape: &[usize], seed: u32, dtype: DType) -> Tensor {
    samples(shape, seed).to_dtype(dtype).unwrap()
}

/// Attention through the fake on tensors of the CPU.
fn run(fake: &Fake, [q, k, v]: [&Tensor; 3], scale: f64) -> std::result::Result<Tensor, String> {
    with_library(&fake.library, || {
        with_shim(0, || {
            let target: Target = target(q).unwrap();
            sdpa::attention(&target, q, k, v, scale)
        })
    })
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let floats = |x: &Tensor| -> Vec<f32> {
        let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        x.to_vec1().unwrap()
    };
    assert_eq!(a.dims(), b.dims());
    let (mut error, mut norm) = (0f64, 0f64);
    for (a, b) in floats(a).into_iter().zip(floats(b)) {
        error += f64::from(a - b).powi(2);
        norm += f64::from(b).powi(2);
    }
    (error / norm).sqrt()
}

#[test]
fn the_graph_is_built_as_documented() {
    let fake = Fake::new();
    let q = values(&[1, 3, 2, 8], 1, DType::BF16);
    run(&fake, [&q, &q, &q], 0.5).unwrap();
    // A tensor: type, dimensions, strides, id, alignment.
    let tensor = "set 17.901 x1|set 17.902 x4|set 17.903 x4|set 17.906 x1|set 17.900 x1";
    let mut expected = Vec::new();
    for operand in ["2800", "2801", "2802", "2803"] {
        expected.extend(tensor.split('|').map(str::to_owned));
        expected.push("finalize 17".into());
        expected.push(format!("set 41.{operand} x1"));
    }
    expected.extend(tensor.split('|').map(str::to_owned));
    for line in [
        "set 17.908 x1", // by value
        "finalize 17",
        "set 41.2805 x1",
        "finalize 41",
        "set 15.801 x1",
        "set 15.800 x1",
        "finalize 15",
        "set 4.201 x1",
        "set 4.200 x1",
        "finalize 4",
        "set 5.401 x1",
        "set 5.400 x1",
        "finalize 5",
        "set 16.1001 x5",
        "set 16.1000 x5",
        "set 16.1003 x1",
        "finalize 16",
        "execute",
    ] {
        expected.push(line.into());
    }
    assert_eq!(fake.journal(), expected);

    // The second time there is a plan: only addresses are set.
    run(&fake, [&q, &q, &q], 0.25).unwrap();
    assert_eq!(fake.journal().len(), expected.len() + 5);
}

#[test]
fn numbers_are_those_of_the_reference_whatever_the_strides() {
    let fake = Fake::new();
    for (dtype, limit) in [(DType::BF16, 3e-3), (DType::F16, 4e-4)] {
        for (b, lq, lk, n, d) in [(1, 5, 7, 3, 16), (2, 4, 4, 2, 8), (2, 1, 9, 1, 128)] {
            let q = values(&[b, lq, n, d], 2, dtype);
            let k = values(&[b, lk, n, d], 3, dtype);
            // v as a part of a fused projection, and as heads first.
            let fused = values(&[b, lk, 3 * n, d], 4, dtype);
            let part = fused.narrow(2, n, n).unwrap();
            let heads_first = values(&[b, n, lk, d], 5, dtype).transpose(1, 2).unwrap();
            let odd = values(&[b, lk, n, d + 1], 6, dtype)
                .narrow(3, 1, d)
                .unwrap();
            for v in [part, heads_first, odd] {
                let got = run(&fake, [&q, &k, &v], 0.3).unwrap();
                assert!(got.is_contiguous());
                let want = crate::reference::attention(&q, &k, &v, 0.3, None).unwrap();
                let distance = distance(&got, &want);
                assert!(
                    distance < limit,
                    "{dtype:?} {b} {lq} {lk} {n} {d}: {distance}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let fake = Fake::new();
    let q = values(&[1, 3, 2, 8], 1, DType::BF16);
    run(&fake, [&q, &q, &q], 0.5).unwrap();
    sdpa::forget(&fake.library);
    assert_eq!(fake.live(), 0);
}

#[test]
fn every_call_that_fails_is_named_and_costs_nothing() {
    let q = values(&[1, 3, 2, 8], 1, DType::BF16);
    let mut failures = 0;
    for call in [
        "cudnnCreate",
        "cudnnSetStream",
        "cudnnBackendCreateDescriptor",
        "cudnnBackendSetAttribute",
        "cudnnBackendFinalize",
        "cudnnBackendGetAttribute",
        "cudnnBackendExecute",
    ] {
        let fake = Fake::new();
        for at in 1..200 {
            fake.fail(call, at, 3000);
            let result = run(&fake, [&q, &q, &q], 0.5);
            sdpa::forget(&fake.library);
            assert_eq!(fake.live(), 0, "{call} {at}");
            match result {
                Err(reason) => {
                    failures += 1;
                    assert!(
                        reason.contains("CUDNN_STATUS_NOT_SUPPORTED: told to fail"),
                        "{call} {at}: {reason}"
                    );
                    assert!(reason.contains(call), "{call} {at}: {reason}");
                }
                // Some failures are survived: another engine serves, or a note stays unknown.
                Ok(got) => {
                    let want = crate::reference::attention(&q, &q, &q, 0.5, None).unwrap();
                    assert!(distance(&got, &want) < 3e-3, "{call} {at}");
                    if at > 60 {
                        break;
                    }
                }
            }
        }
    }
    assert!(failures > 50, "{failures}");
}

#[test]
fn engines_that_refuse_or_take_too_much_are_passed_over() {
    let q = values(&[1, 3, 2, 8], 1, DType::BF16);
    let fake = Fake::new();
    fake.engines(3, 2, 64, -1, -1);
    run(&fake, [&q, &q, &q], 0.5).unwrap();

    // Mode A has one that refuses, the fall-back has one that serves.
    let fake = Fake::new();
    fake.engines(1, 1, 0, -1, -1);
    run(&fake, [&q, &q, &q], 0.5).unwrap();

    let fake = Fake::new();
    fake.engines(2, 9, 0, -1, -1);
    let reason = run(&fake, [&q, &q, &q], 0.5).unwrap_err();
    assert!(reason.contains("none of 3 engines") && reason.contains("this engine cannot"));
    // The refusal is remembered: no second search.
    let calls = fake.journal().len();
    assert_eq!(run(&fake, [&q, &q, &q], 0.5).unwrap_err(), reason);
    assert_eq!(fake.journal().len(), calls);

    let fake = Fake::new();
    fake.engines(1, 0, 1 << 40, -1, -1);
    let reason = run(&fake, [&q, &q, &q], 0.5).unwrap_err();
    assert!(
        reason.contains("1099511627776 bytes of workspace"),
        "{reason}"
    );

    // Both engines of index 0 say that they give other bits on every run.
    let fake = Fake::new();
    fake.engines(1, 0, 0, 0, 4);
    let reason = run(&fake, [&q, &q, &q], 0.5).unwrap_err();
    assert!(reason.contains("NONDETERMINISTIC"), "{reason}");
}

#[test]
fn libraries_that_cannot_serve_say_why() {
    let nowhere = Library::open(&[PathBuf::from("/nowhere")]);
    match nowhere {
        Err(error @ Error::NotFound(_)) => {
            let text = error.to_string();
            assert!(text.contains("/nowhere/libcudnn.so.9"), "{text}");
            assert!(text.contains("LEOMA_NODE_CUDA_LIBS"), "{text}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => {} // this machine has cuDNN
    }

    let folder = build(&["-DWITHOUT_EXECUTE"]);
    let error = Library::open(std::slice::from_ref(&folder)).unwrap_err();
    assert!(
        matches!(&error, Error::NoFunction { path, function: "cudnnBackendExecute" }
            if path.contains(SONAME)),
        "{error}"
    );
    std::fs::remove_dir_all(folder).unwrap();

    let q = values(&[1, 3, 2, 8], 1, DType::BF16);
    let old = Fake::of_version(91300);
    let reason = run(&old, [&q, &q, &q], 0.5).unwrap_err();
    assert_eq!(
        reason,
        "cuDNN 9.13.0 is too old for fused attention, which came with 9.13.1"
    );
    let fake = Fake::of_version(91301);
    assert_eq!(fake.library.version(), Version::new(9, 13, 1));
    run(&fake, [&q, &q, &q], 0.5).unwrap();

    let f32s = q.to_dtype(DType::F32).unwrap();
    let reason = run(&fake, [&f32s, &f32s, &f32s], 0.5).unwrap_err();
    assert!(reason.contains("bf16 and f16, not F32"), "{reason}");
    let wide = values(&[1, 3, 2, 136], 1, DType::BF16);
    let reason = run(&fake, [&wide, &wide, &wide], 0.5).unwrap_err();
    assert!(reason.contains("not 136"), "{reason}");

    // Addresses of the CPU never reach a library that no test brought.
    let reason = with_shim(0, || {
        sdpa::attention(&target(&q).unwrap(), &q, &q, &q, 0.5).unwrap_err()
    });
    assert!(reason.contains("host shim"), "{reason}");
}

#[test]
fn the_variable_lists_directories() {
    assert!(directories(None).is_empty());
    assert!(directories(Some("".into())).is_empty());
    assert_eq!(
        directories(Some("/a:/b/c:".into())),
        [PathBuf::from("/a"), PathBuf::from("/b/c")]
    );
}
