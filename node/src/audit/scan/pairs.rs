//! Which repositories of a scan have something in common: equal digests, then sketches that are near, then the
//! comparison that decides.

use std::collections::BTreeMap;

use leoma_models::{Error, Result};

use super::cache::{Cache, Kind, key_of};
use super::examine::Examined;
use super::{Candidate, Known, Options, Place, Probe, Progress};
use crate::audit::compare::layers::Layers;
use crate::audit::compare::sketch::Sketch;
use crate::audit::compare::{Comparison, Thresholds, Verdict, compare};
use crate::audit::finding::{Finding, Rule};
use crate::audit::report::{How, Pair, Read, Repository, Source};

/// What two repositories have in common by their digests.
fn equal(a: &Repository, b: &Repository) -> Option<(Verdict, String)> {
    if a.model_hash.is_some() && a.model_hash == b.model_hash {
        let message = "The weight files are the same, byte for byte.";
        return Some((Verdict::Identical, message.into()));
    }
    let (a, b) = (a.model_digest.as_ref()?, b.model_digest.as_ref()?);
    if a.named == b.named {
        let message =
            "All weights have the same values, as bf16; the files, or the types in them, differ.";
        return Some((Verdict::Repacked, message.into()));
    }
    (a.unnamed == b.unnamed).then(|| {
        let message = "The same values, as bf16, are in both, under other names.";
        (Verdict::Repacked, message.into())
    })
}

/// Pairs that have something in common. Both sides get a finding for each.
///
/// # Errors
/// [`Error::Cancelled`].
pub(super) fn find(
    examined: &mut [Examined],
    places: &[Place],
    base: Option<(&Examined, &Place)>,
    options: &Options<'_>,
    read: &mut Read,
) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut findings: BTreeMap<usize, Vec<Finding>> = BTreeMap::new();
    // Of several that are equal, the first stands for all.
    let mut different: Vec<usize> = Vec::new();
    for index in 0..examined.len() {
        let repository = &examined[index].repository;
        if base.is_some_and(|(base, _)| equal(repository, &base.repository).is_some()) {
            let message = "the weights are those of the base; nothing was trained";
            findings
                .entry(index)
                .or_default()
                .push(Finding::new(Rule::UnchangedBase, "", message));
            continue;
        }
        let same = different
            .iter()
            .find_map(|&first| Some((first, equal(&examined[first].repository, repository)?)));
        let Some((first, (verdict, statement))) = same else {
            different.push(index);
            continue;
        };
        let pair = Pair {
            a: examined[first].repository.source.clone(),
            b: repository.source.clone(),
            base: base.map(|(base, _)| base.repository.source.clone()),
            how: How::Digests,
            verdict,
            statement,
            measured: None,
            layers: None,
        };
        note(&pair, first, index, &mut findings);
        pairs.push(pair);
    }
    if let Some((base, base_place)) = base {
        let near = candidates(examined, &different, base);
        let total = near.len();
        for (done, (a, b)) in near.into_iter().enumerate() {
            (options.progress)(Progress::Pair(done, total));
            let sides = [(&examined[a], &places[a]), (&examined[b], &places[b])];
            match one(sides, (base, base_place), options, read) {
                Ok(pair) => {
                    note(&pair, a, b, &mut findings);
                    pairs.push(pair);
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => {
                    for (index, other) in [(a, b), (b, a)] {
                        let other = &examined[other].repository.source;
                        let message = format!("could not be compared with {other}: {error}");
                        findings.entry(index).or_default().push(Finding::new(
                            Rule::CouldNotRead,
                            "",
                            message,
                        ));
                    }
                }
            }
        }
    }
    if let Some(known) = options.known {
        for (index, one) in examined.iter().enumerate() {
            findings.entry(index).or_default().extend(recorded(
                one,
                base.map(|(base, _)| base),
                known,
            ));
        }
    }
    for (index, found) in findings {
        if let Some(examined) = examined.get_mut(index) {
            examined.repository.findings.extend(found);
            examined.repository.findings.sort();
        }
    }
    Ok(pairs)
}

/// Pairs whose sketches are near.
fn candidates(examined: &[Examined], which: &[usize], base: &Examined) -> Vec<(usize, usize)> {
    let Some(base) = &base.sketch else {
        return Vec::new();
    };
    let sketch = |index: usize| examined.get(index)?.sketch.as_ref();
    let mut near = Vec::new();
    for (at, &a) in which.iter().enumerate() {
        for &b in which.iter().skip(at + 1) {
            let likeness = || Sketch::likeness(sketch(a)?, sketch(b)?, base);
            if likeness().is_some_and(|likeness| likeness.is_near()) {
                near.push((a, b));
            }
        }
    }
    near
}

/// Compares two repositories, or recalls it.
fn one(
    [(a, a_place), (b, b_place)]: [(&Examined, &Place); 2],
    (base, base_place): (&Examined, &Place),
    options: &Options<'_>,
    read: &mut Read,
) -> Result<Pair> {
    let key = key(a, b, base, options.thresholds);
    let recalled = key
        .as_ref()
        .and_then(|key| options.cache.get::<Comparison>(Kind::Pair, key));
    let comparison = if let Some(comparison) = recalled {
        read.known_pairs += 1;
        comparison
    } else {
        let progress = |done, total| (options.progress)(Progress::Weights(done, total));
        let comparison = compare(
            &a_place.path,
            &b_place.path,
            Some(&base_place.path),
            options.thresholds,
            &progress,
        )?;
        read.compared_pairs += 1;
        remember(options.cache, key.as_deref(), &comparison);
        comparison
    };
    let source = |examined: &Examined| examined.repository.source.clone();
    let mut pair = Pair::of(source(a), source(b), Some(source(base)), comparison);
    pair.layers = layers(a, b, base);
    Ok(pair)
}

fn key(a: &Examined, b: &Examined, base: &Examined, thresholds: &Thresholds) -> Option<String> {
    let [a, b, base] = [a, b, base].map(|examined| examined.fingerprint.as_deref());
    let thresholds = serde_json::to_vec(thresholds).ok()?;
    Some(key_of(&[
        b"pair",
        a?.as_bytes(),
        b?.as_bytes(),
        base?.as_bytes(),
        &thresholds,
    ]))
}

fn remember(cache: &Cache, key: Option<&str>, comparison: &Comparison) {
    if let Some(key) = key {
        cache.put(Kind::Pair, key, comparison);
    }
}

fn layers(a: &Examined, b: &Examined, base: &Examined) -> Option<Layers> {
    Layers::of(
        a.sketch.as_ref()?,
        b.sketch.as_ref()?,
        base.sketch.as_ref()?,
    )
}

/// Tells both sides of a pair.
fn note(pair: &Pair, a: usize, b: usize, findings: &mut BTreeMap<usize, Vec<Finding>>) {
    for (index, other) in [(a, &pair.b), (b, &pair.a)] {
        if let Some(finding) = pair.finding(other) {
            findings.entry(index).or_default().push(finding);
        }
    }
}

/// What models that are recorded elsewhere have in common with a repository.
fn recorded(examined: &Examined, base: Option<&Examined>, known: Known<'_>) -> Vec<Finding> {
    let found = known(Probe {
        source: &examined.repository.source,
        sketch: examined.sketch.as_ref(),
        base: base.and_then(|base| base.sketch.as_ref()),
        model_hash: examined.repository.model_hash.as_deref(),
        model_digest: examined.repository.model_digest.as_ref(),
    });
    found.into_iter().map(Candidate::finding).collect()
}

impl Candidate {
    fn finding(self) -> Finding {
        let other = Source {
            name: self.name,
            ..Source::default()
        };
        match self.likeness {
            None => {
                let message = format!("has the digests of {other}, which is recorded");
                Finding::new(Rule::SameWeights, "", message)
            }
            Some(likeness) => {
                let message = format!(
                    "its sketch is near that of {other}, which is recorded (cosine of the differences about {:.2}, \
                     {:.0} % of the sums of squares agree): get both and compare them",
                    likeness.cosine,
                    100.0 * likeness.same_squares
                );
                Finding::new(Rule::UndecidedLikeness, "", message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::compare::sketch::Likeness;
    use crate::audit::identity::ModelDigest;

    fn repository(hash: &str, named: &str, unnamed: &str) -> Repository {
        Repository {
            model_hash: (!hash.is_empty()).then(|| hash.to_owned()),
            model_digest: (!named.is_empty()).then(|| ModelDigest {
                named: named.to_owned(),
                unnamed: unnamed.to_owned(),
            }),
            ..Repository::default()
        }
    }

    #[test]
    fn digests_that_are_missing_are_not_equal() {
        let verdict = |a: &Repository, b: &Repository| equal(a, b).map(|(verdict, _)| verdict);
        let a = repository("1", "n", "u");
        assert_eq!(
            verdict(&a, &repository("1", "", "")),
            Some(Verdict::Identical)
        );
        assert_eq!(
            verdict(&a, &repository("2", "n", "u")),
            Some(Verdict::Repacked)
        );
        assert_eq!(
            verdict(&a, &repository("2", "m", "u")),
            Some(Verdict::Repacked)
        );
        assert_eq!(verdict(&a, &repository("2", "m", "v")), None);
        let nothing = repository("", "", "");
        assert_eq!(verdict(&nothing, &nothing), None);
    }

    #[test]
    fn recorded_models_are_findings() {
        let examined = Examined {
            repository: repository("1", "n", "u"),
            sketch: None,
            fingerprint: None,
        };
        let known = |probe: Probe<'_>| {
            assert_eq!(probe.model_hash, Some("1"));
            let likeness = Likeness {
                cosine: 0.9,
                same_squares: 0.0,
            };
            [None, Some(likeness)]
                .map(|likeness| Candidate {
                    name: "a/b".into(),
                    likeness,
                })
                .to_vec()
        };
        let rules: Vec<_> = recorded(&examined, None, &known)
            .iter()
            .map(|f| f.rule)
            .collect();
        assert_eq!(rules, [Rule::SameWeights, Rule::UndecidedLikeness]);
    }
}
