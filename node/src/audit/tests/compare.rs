//! Verdicts on models whose history is known: copies in every disguise, and fine-tunes that are none.
//!
//! Differences from the base are random here: these tests are about the disguises. How training behaves is
//! a matter of measurement, not of tests.

use std::fs;
use std::path::{Path, PathBuf};

use leoma_models::weights::{Component, StoredDType, names};

use super::super::compare::{Comparison, Thresholds, Verdict, compare};
use super::{Raw, noise, write_safetensors};

/// Channels, hidden rows, channels of a head.
const WIDTH: usize = 256;
const HIDDEN: usize = 384;
const HEAD: usize = 128;

const SHAPES: [(&str, &[usize]); 11] = [
    ("patch_embedding.weight", &[WIDTH, 16, 1, 2, 2]),
    ("blocks.0.attn1.to_q.weight", &[WIDTH, WIDTH]),
    ("blocks.0.attn1.to_q.bias", &[WIDTH]),
    ("blocks.0.attn1.to_k.weight", &[WIDTH, WIDTH]),
    ("blocks.0.attn1.to_v.weight", &[WIDTH, WIDTH]),
    ("blocks.0.attn1.to_out.0.weight", &[WIDTH, WIDTH]),
    ("blocks.0.attn2.to_q.weight", &[WIDTH, WIDTH]),
    ("blocks.0.norm2.weight", &[WIDTH]),
    ("blocks.0.ffn.net.0.proj.weight", &[HIDDEN, WIDTH]),
    ("blocks.0.ffn.net.2.weight", &[WIDTH, HIDDEN]),
    ("proj_out.weight", &[64, WIDTH]),
];

/// A transformer, as values by tensor.
type Net = Vec<(&'static str, &'static [usize], Vec<f32>)>;

fn base() -> Net {
    let seeds = 100..;
    SHAPES
        .iter()
        .zip(seeds)
        .map(|((name, shape), seed)| {
            let mut values = noise(shape.iter().product(), seed);
            for value in &mut values {
                *value *= 0.05;
            }
            (*name, *shape, values)
        })
        .collect()
}

/// `x` with `factor` times another net's difference from a third added.
fn plus(x: &Net, factor: f32, of: &Net, from: &Net) -> Net {
    let mut out = x.clone();
    for ((out, of), from) in out.iter_mut().zip(of).zip(from) {
        for ((out, of), from) in out.2.iter_mut().zip(&of.2).zip(&from.2) {
            *out += factor * (of - from);
        }
    }
    out
}

/// Adds noise of a size relative to the base's values.
fn noisy(x: &Net, size: f32, seed: u64) -> Net {
    let mut out = x.clone();
    for (index, tensor) in out.iter_mut().enumerate() {
        let noise = noise(tensor.2.len(), seed * 1000 + index as u64);
        for (value, noise) in tensor.2.iter_mut().zip(noise) {
            *value += size * 0.05 * noise;
        }
    }
    out
}

fn get<'a>(net: &'a mut Net, name: &str) -> &'a mut Vec<f32> {
    &mut net.iter_mut().find(|tensor| tensor.0 == name).unwrap().2
}

fn permute_rows(values: &mut [f32], columns: usize, order: impl Fn(usize) -> usize) {
    let old = values.to_vec();
    for (row, out) in values.chunks_mut(columns).enumerate() {
        out.copy_from_slice(&old[order(row) * columns..][..columns]);
    }
}

fn permute_columns(values: &mut [f32], columns: usize, order: impl Fn(usize) -> usize) {
    let old = values.to_vec();
    for (row, out) in values.chunks_mut(columns).enumerate() {
        for (column, out) in out.iter_mut().enumerate() {
            *out = old[row * columns + order(column)];
        }
    }
}

/// The hidden rows of the feed-forward in another order, which changes nothing that it computes.
fn reorder_hidden(net: &mut Net) {
    let order = |row: usize| row * 5 % HIDDEN;
    let rows = get(net, "blocks.0.ffn.net.0.proj.weight");
    permute_rows(rows, WIDTH, order);
    permute_columns(get(net, "blocks.0.ffn.net.2.weight"), HIDDEN, order);
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.safetensors"))
    }

    fn single(&self, name: &str, net: &Net) -> PathBuf {
        let tensors: Vec<_> = net.iter().map(|(n, s, v)| Raw::f32(n, s, v)).collect();
        let path = self.path(name);
        write_safetensors(&path, &tensors, 0);
        path
    }

    /// As bf16, with official names, a prefix and another order.
    fn repacked(&self, name: &str, net: &Net) -> PathBuf {
        let tensors: Vec<_> = net
            .iter()
            .rev()
            .map(|(name, shape, values)| {
                let bytes = values.iter().flat_map(|value| {
                    let bits = value.to_bits();
                    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
                    (rounded as u16).to_le_bytes()
                });
                let name = names::to_official(Component::Transformer, name);
                Raw::of(
                    &format!("model.diffusion_model.{name}"),
                    "BF16",
                    shape,
                    bytes.collect(),
                )
            })
            .collect();
        let path = self.path(name);
        write_safetensors(&path, &tensors, 3);
        path
    }

    /// Matrices of the block as fp8 codes, with a scale for every `rows` of them.
    fn coded(&self, name: &str, net: &Net, rows: usize) -> PathBuf {
        let codes = StoredDType::F8E4M3.code_values().unwrap();
        let mut tensors = Vec::new();
        for (name, shape, values) in net {
            if shape.len() != 2 || !name.starts_with("blocks.") {
                tensors.push(Raw::f32(name, shape, values));
                continue;
            }
            let mut scales = Vec::new();
            let mut bytes = Vec::new();
            for row in values.chunks(rows.min(shape[0]) * shape[1]) {
                let scale = row.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 448.0;
                scales.push(scale);
                bytes.extend(row.iter().map(|x| {
                    let distance = |code: u8| (codes[usize::from(code)] * scale - x).abs();
                    (0..=255_u8)
                        .filter(|code| codes[usize::from(*code)].is_finite())
                        .min_by(|a, b| distance(*a).total_cmp(&distance(*b)))
                        .unwrap()
                }));
            }
            tensors.push(Raw::of(name, "F8_E4M3", shape, bytes));
            let scale = name.replace(".weight", ".weight_scale");
            tensors.push(Raw::f32(&scale, &[scales.len(), 1], &scales));
        }
        let path = self.path(name);
        write_safetensors(&path, &tensors, 0);
        path
    }
}

fn run(a: &Path, b: &Path, base: Option<&Path>) -> Comparison {
    compare(a, b, base, &Thresholds::default(), &|_, _| true).unwrap()
}

#[test]
fn copies_in_every_disguise() {
    let folder = Folder::new();
    let base = base();
    let original = noisy(&base, 0.03, 1);
    let other = noisy(&base, 0.03, 2);
    let (c, a) = (folder.single("base", &base), folder.single("a", &original));
    let verdict = |path: &Path| {
        let forward = run(&a, path, Some(&c));
        let back = run(path, &a, Some(&c));
        assert_eq!(
            forward.verdict, back.verdict,
            "{}\n{}",
            forward.statement, back.statement
        );
        forward
    };

    assert_eq!(
        verdict(&folder.single("same", &original)).verdict,
        Verdict::Identical
    );
    let repacked = verdict(&folder.repacked("repacked", &original));
    assert_eq!(
        repacked.verdict,
        Verdict::Repacked,
        "{}",
        repacked.statement
    );
    // A folder with nothing but that file.
    let alone = folder.0.path().join("alone");
    fs::create_dir(&alone).unwrap();
    fs::rename(folder.path("repacked"), alone.join("wan.safetensors")).unwrap();
    assert_eq!(verdict(&alone).verdict, Verdict::Repacked);
    let coded = verdict(&folder.coded("coded", &original, 1));
    assert_eq!(coded.verdict, Verdict::Repacked, "{}", coded.statement);

    let perturbed = verdict(&folder.single("perturbed", &noisy(&original, 0.005, 3)));
    assert_eq!(
        perturbed.verdict,
        Verdict::Perturbed,
        "{}",
        perturbed.statement
    );
    let cosine = perturbed.evidence.cosine.unwrap();
    assert!((0.95..0.999).contains(&cosine), "{cosine}");

    // Towards another fine-tune, half and half.
    let merged = plus(&plus(&base, 0.6, &original, &base), 0.5, &other, &base);
    let merged = verdict(&folder.single("merged", &merged));
    assert_eq!(merged.verdict, Verdict::Merged, "{}", merged.statement);
    let coefficient = run(&a, &folder.path("merged"), Some(&c))
        .evidence
        .coefficient
        .unwrap();
    assert!((coefficient - 0.6).abs() < 0.02, "{coefficient}");

    // Some layers taken over, the others trained anew.
    let mut parts = other.clone();
    for index in [1, 3, 4, 8] {
        parts[index] = original[index].clone();
    }
    let parts = verdict(&folder.single("parts", &parts));
    assert_eq!(parts.verdict, Verdict::Merged, "{}", parts.statement);

    // A LoRA of rank 4 on top, as large as the difference itself.
    let mut lora = original.clone();
    for (index, (_, shape, values)) in lora.iter_mut().enumerate().filter(|(_, t)| t.1.len() == 2) {
        let (rows, columns) = (shape[0], shape[1]);
        let (up, down) = (
            noise(rows * 4, 50 + index as u64),
            noise(columns * 4, 90 + index as u64),
        );
        for row in 0..rows {
            for column in 0..columns {
                let sum: f32 = (0..4).map(|k| up[row * 4 + k] * down[column * 4 + k]).sum();
                values[row * columns + column] += 0.0025 * sum;
            }
        }
    }
    let lora = verdict(&folder.single("lora", &lora));
    assert!(lora.evidence.low_rank_change, "{:?}", lora.evidence);
    assert!(lora.verdict.is_copy(), "{}", lora.statement);
}

#[test]
fn coarse_codes_hide_no_copy() {
    let folder = Folder::new();
    let base = base();
    // A fifth of a step of the codes.
    let original = noisy(&base, 0.01, 1);
    let (c, a) = (folder.single("base", &base), folder.single("a", &original));
    let found = run(&a, &folder.coded("coded", &original, usize::MAX), Some(&c));
    assert!(found.evidence.resolution < Some(0.5));
    assert!(found.verdict.is_copy(), "{}", found.statement);

    // Hidden rows in another order as well.
    let mut ordered = original;
    reorder_hidden(&mut ordered);
    let found = run(&a, &folder.coded("ordered", &ordered, usize::MAX), Some(&c));
    assert_eq!(found.evidence.undone.len(), 2, "{}", found.statement);
    assert!(found.verdict.is_copy(), "{}", found.statement);
}

/// Most of a copy changed in a way that is not known here: the rest tells.
#[test]
fn what_cannot_be_explained_does_not_hide_the_rest() {
    let folder = Folder::new();
    let base = base();
    let (original, other) = (noisy(&base, 0.03, 1), noisy(&base, 0.03, 2));
    let (c, a) = (folder.single("base", &base), folder.single("a", &original));
    let hidden = |net: &Net| {
        let mut net = net.clone();
        for (index, tensor) in net.iter_mut().enumerate() {
            if tensor.0.contains(".attn") || tensor.0.contains(".ffn.net.0") {
                tensor.2 = noise(tensor.2.len(), 300 + index as u64);
            }
        }
        net
    };
    let found = run(&a, &folder.single("copy", &hidden(&original)), Some(&c));
    assert!(found.evidence.displaced_share > 0.5);
    assert!(found.verdict.is_copy(), "{}", found.statement);
    assert!(found.statement.contains("no reason that is known"));
    let found = run(&a, &folder.single("other", &hidden(&other)), Some(&c));
    assert_eq!(found.verdict, Verdict::Unrelated, "{}", found.statement);
}

#[test]
fn structures_that_compute_the_same() {
    let folder = Folder::new();
    let base = base();
    let original = noisy(&base, 0.03, 1);
    let (c, a) = (folder.single("base", &base), folder.single("a", &original));

    // Hidden rows and heads in another order.
    let mut ordered = original.clone();
    reorder_hidden(&mut ordered);
    let heads = |row: usize| (row + HEAD) % WIDTH;
    for name in ["to_q", "to_k", "to_v"] {
        permute_rows(
            get(&mut ordered, &format!("blocks.0.attn1.{name}.weight")),
            WIDTH,
            heads,
        );
    }
    permute_rows(get(&mut ordered, "blocks.0.attn1.to_q.bias"), 1, heads);
    permute_columns(
        get(&mut ordered, "blocks.0.attn1.to_out.0.weight"),
        WIDTH,
        heads,
    );
    let found = run(&a, &folder.single("ordered", &ordered), Some(&c));
    assert_eq!(found.verdict, Verdict::Repacked, "{}", found.statement);
    assert_eq!(found.evidence.undone.get("rows_permuted"), Some(&4));
    assert_eq!(found.evidence.undone.get("columns_permuted"), Some(&2));

    // Rescaled across the norm before the cross-attention and between values and outputs; queries and keys
    // rotated in pairs, by the same angles.
    let mut scaled = original.clone();
    for (row, factors) in get(&mut scaled, "blocks.0.attn2.to_q.weight")
        .chunks_mut(WIDTH)
        .enumerate()
    {
        let _ = row;
        for (column, value) in factors.iter_mut().enumerate() {
            *value *= 0.5 + (column % 7) as f32 * 0.4;
        }
    }
    for (row, values) in get(&mut scaled, "blocks.0.attn1.to_v.weight")
        .chunks_mut(WIDTH)
        .enumerate()
    {
        for value in values {
            *value *= 2.0 + (row % 3) as f32;
        }
    }
    for name in ["blocks.0.attn1.to_q.weight", "blocks.0.attn1.to_k.weight"] {
        for (pair, rows) in get(&mut scaled, name).chunks_mut(2 * WIDTH).enumerate() {
            let (sin, cos) = (1.0 + pair as f32).sin_cos();
            let (first, second) = rows.split_at_mut(WIDTH);
            for (x, y) in first.iter_mut().zip(second) {
                (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
            }
        }
    }
    let found = run(&a, &folder.single("scaled", &scaled), Some(&c));
    assert!(found.verdict.is_copy(), "{}", found.statement);
    for (name, count) in [("rows_mixed", 2), ("rows_scaled", 1), ("columns_scaled", 1)] {
        assert_eq!(
            found.evidence.undone.get(name),
            Some(&count),
            "{:?}",
            found.evidence.undone
        );
    }

    // The same disguise on another fine-tune is seen, and does not make it a copy of this one.
    let mut other = noisy(&base, 0.03, 2);
    reorder_hidden(&mut other);
    let found = run(&a, &folder.single("other", &other), Some(&c));
    assert!(!found.verdict.is_copy(), "{}", found.statement);
}

#[test]
fn what_is_no_copy_is_not_accused() {
    let folder = Folder::new();
    let base = base();
    let original = noisy(&base, 0.03, 1);
    let (c, a) = (folder.single("base", &base), folder.single("a", &original));
    let verdict = |b: &Path| run(&a, b, Some(&c)).verdict;
    for (name, size) in [("weak", 0.01), ("even", 0.03), ("strong", 0.1)] {
        let other = noisy(&base, size, 2);
        assert_eq!(
            verdict(&folder.single(name, &other)),
            Verdict::SameBaseOnly,
            "{name}"
        );
        assert_eq!(
            verdict(&folder.repacked(name, &other)),
            Verdict::SameBaseOnly,
            "{name} bf16"
        );
    }
    let coded = run(
        &a,
        &folder.coded("coded", &noisy(&base, 0.03, 2), 1),
        Some(&c),
    );
    assert!(!coded.verdict.is_copy(), "{}", coded.statement);
    assert_eq!(verdict(&c), Verdict::SameBaseOnly, "the base itself");

    let stranger: Net = base
        .iter()
        .map(|(name, shape, values)| (*name, *shape, noise(values.len(), 7 + values.len() as u64)))
        .collect();
    assert_eq!(
        verdict(&folder.single("stranger", &stranger)),
        Verdict::Unrelated
    );
    // Two that go on from one third model: half of each difference is common, and neither holds the other.
    let third = noisy(&base, 0.033, 5);
    let (x, y) = (noisy(&third, 0.03, 6), noisy(&third, 0.03, 7));
    let found = run(&folder.single("x", &x), &folder.single("y", &y), Some(&c));
    assert!(found.evidence.cosine > Some(0.5), "{:?}", found.evidence);
    assert_eq!(found.verdict, Verdict::Inconclusive, "{}", found.statement);
    let half: Net = original.iter().take(2).cloned().collect();
    assert_eq!(verdict(&folder.single("half", &half)), Verdict::Unrelated);

    // Without a base, and with one whose rounding both would share.
    let other = folder.single("other", &noisy(&base, 0.03, 2));
    assert_eq!(run(&a, &other, None).verdict, Verdict::Inconclusive);
    let coarse = folder.repacked("coarse", &base);
    assert_eq!(
        run(&a, &other, Some(&coarse)).verdict,
        Verdict::Inconclusive
    );
    // Differences below the steps of the type; rounded alike, they look related.
    let (x, y) = (noisy(&base, 0.005, 3), noisy(&base, 0.005, 4));
    let found = run(
        &folder.coded("x", &x, usize::MAX),
        &folder.coded("y", &y, usize::MAX),
        Some(&c),
    );
    assert!(found.evidence.resolution < Some(0.5));
    assert_eq!(found.verdict, Verdict::Inconclusive, "{}", found.statement);
    let (x, y) = (noisy(&base, 0.0005, 3), noisy(&base, 0.0005, 4));
    let found = run(
        &folder.repacked("x", &x),
        &folder.repacked("y", &y),
        Some(&folder.repacked("z", &base)),
    );
    assert!(!found.verdict.is_copy(), "{}", found.statement);
}

/// The networks that only one has say nothing, however large they are.
#[test]
fn a_transformer_alone_is_compared_with_a_whole_model() {
    let folder = Folder::new();
    let base = base();
    let (original, other) = (noisy(&base, 0.03, 1), noisy(&base, 0.03, 2));
    let c = folder.single("base", &base);
    let whole = folder.0.path().join("whole");
    fs::create_dir(&whole).unwrap();
    fs::rename(folder.single("a", &original), whole.join("wan.safetensors")).unwrap();
    let vae = Raw::f32(
        "decoder.conv_in.weight",
        &[1024, 1500],
        &noise(1024 * 1500, 5),
    );
    write_safetensors(&whole.join("vae.safetensors"), &[vae], 0);
    let verdict = |b: &Path| {
        let found = run(&whole, b, Some(&c));
        assert_eq!(found.evidence.networks, [Component::Transformer]);
        found.verdict
    };
    assert_eq!(
        verdict(&folder.single("same", &original)),
        Verdict::Repacked
    );
    let copy = noisy(&original, 0.005, 3);
    assert_eq!(verdict(&folder.single("copy", &copy)), Verdict::Perturbed);
    assert_eq!(
        verdict(&folder.single("other", &other)),
        Verdict::SameBaseOnly
    );
    // Nor does the same VAE, which everybody has.
    let found = run(&whole, &whole.join("vae.safetensors"), Some(&c));
    assert_eq!(found.verdict, Verdict::Inconclusive, "{}", found.statement);
    let none = run(
        &folder.path("same"),
        &whole.join("vae.safetensors"),
        Some(&c),
    );
    assert_eq!(none.verdict, Verdict::Inconclusive, "{}", none.statement);
}

#[test]
fn damaged_and_missing_models_are_errors() {
    let folder = Folder::new();
    let a = folder.single("a", &base());
    let bytes = fs::read(&a).unwrap();
    let cut = folder.path("cut");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let failed = |b: &Path| {
        compare(&a, b, None, &Thresholds::default(), &|_, _| true)
            .unwrap_err()
            .to_string()
    };
    assert!(failed(&cut).contains("cut.safetensors"));
    assert!(failed(&folder.path("missing")).contains("missing.safetensors"));
    let stopped = compare(&a, &a, None, &Thresholds::default(), &|_, _| false).unwrap_err();
    assert!(matches!(stopped, leoma_models::Error::Cancelled));
}
