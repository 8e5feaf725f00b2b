//! What is measured: scenarios, read from TOML. Every axis may be a list; the scenario then stands for all
//! combinations.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};
use leoma_kernels::AttentionPreference;
use leoma_models::Precision;
use leoma_models::wan::pipeline::Offload;
use leoma_models::weights::ModelKind;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::failure::bad_input;

/// The scenarios that are built in, by name of the set.
const SETS: [(Set, &str); 2] = [
    (Set::Tiny, include_str!("../../scenarios/tiny.toml")),
    (Set::Released, include_str!("../../scenarios/released.toml")),
];

/// A built-in set of scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Set {
    /// Tiny models: seconds on any machine.
    Tiny,
    /// Released sizes, random weights: for accelerators.
    Released,
}

/// Sizes of the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ModelSize {
    /// The tiny checkpoints.
    Tiny,
    /// The released sizes.
    Released,
    /// Those of the checkpoint that was given.
    Checkpoint,
}

/// One measurement, every value settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// Name of the scenario, with the values of the axes that were lists.
    pub(crate) name: String,
    /// Which model.
    pub(crate) model: String,
    /// In which sizes.
    pub(crate) size: ModelSize,
    /// Pixel columns.
    pub(crate) width: usize,
    /// Pixel rows.
    pub(crate) height: usize,
    /// Pixel frames.
    pub(crate) frames: usize,
    /// Sampler steps of the job.
    pub(crate) steps: usize,
    /// Sampler steps that run; fewer than `steps` means that the clip's time is extrapolated.
    pub(crate) measured_steps: usize,
    /// Guidance of both experts; at most 1 means one pass per step.
    pub(crate) guidance: f64,
    /// Whether a first frame is given.
    pub(crate) image: bool,
    /// Type and rounding of the arithmetic.
    pub(crate) precision: Precision,
    /// Where the choice of the attention kernel begins: `auto`, `leoma` or `chunked`.
    pub(crate) attention: String,
    /// What stays in memory.
    pub(crate) offload: String,
    /// Rounds that are not counted.
    pub(crate) warmups: usize,
    /// Rounds that are.
    pub(crate) rounds: usize,
}

impl Scenario {
    /// The model's kind.
    pub(crate) fn kind(&self) -> Result<ModelKind> {
        self.model
            .parse()
            .map_err(|error: leoma_models::Error| bad_input(error.to_string()))
    }

    /// Transformer passes per step.
    pub(crate) fn passes(&self) -> usize {
        if self.guidance > 1.0 { 2 } else { 1 }
    }

    /// Whether only a part of the job's steps runs.
    pub(crate) fn is_extrapolated(&self) -> bool {
        self.measured_steps < self.steps
    }

    /// What the job is, in one line.
    pub(crate) fn describe(&self) -> String {
        let size = match self.size {
            ModelSize::Tiny => "tiny ",
            ModelSize::Released => "",
            ModelSize::Checkpoint => "checkpoint ",
        };
        let image = if self.image { ", first frame" } else { "" };
        format!(
            "{size}{}, {}x{}, {} frames, {} steps, guidance {}{image}, {}, offload {}",
            self.model,
            self.width,
            self.height,
            self.frames,
            self.steps,
            self.guidance,
            self.precision,
            self.offload
        )
    }

    /// Whether two measurements are of one job, whatever the rounds.
    pub(crate) fn same_job(&self, other: &Self) -> bool {
        let job = |scenario: &Self| Self {
            name: String::new(),
            warmups: 0,
            rounds: 0,
            measured_steps: 0,
            ..scenario.clone()
        };
        job(self) == job(other)
    }
}

/// The scenarios of a built-in set.
pub(crate) fn built_in(set: Set) -> Result<Vec<Scenario>> {
    let text = SETS
        .iter()
        .find(|(known, _)| *known == set)
        .map_or("", |(_, text)| text);
    parse(&format!("built-in set {set:?}").to_lowercase(), text)
}

/// The scenarios of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Scenario>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        bad_input(format!(
            "cannot read scenarios from {}: {error}",
            path.display()
        ))
    })?;
    parse(&path.display().to_string(), &text)
}

/// Reads the text of a file that messages call `file`.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Scenario>> {
    let root: Table = text
        .parse()
        .map_err(|error: toml::de::Error| bad_input(format!("{file} is not TOML: {error}")))?;
    if let Some(key) = root.keys().find(|key| *key != "scenario") {
        return Err(bad_input(format!(
            "{file}: `{key}` is not known here; scenarios are tables `[[scenario]]`"
        )));
    }
    let Some(Value::Array(tables)) = root.get("scenario") else {
        return Err(bad_input(format!(
            "{file} holds no scenario: begin one with a line `[[scenario]]` and give it a `name` and a `model`"
        )));
    };
    let mut all: Vec<Scenario> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let table = table.as_table().ok_or_else(|| {
            bad_input(format!(
                "{file}: scenario {} is no table; write `[[scenario]]`",
                index + 1
            ))
        })?;
        let reader = Reader::new(file, index, table)?;
        for scenario in reader.all()? {
            if all.iter().any(|known| known.name == scenario.name) {
                return Err(reader.refuse(
                    "name",
                    &format!(
                        "is taken by an earlier scenario: `{}`; choose another",
                        scenario.name
                    ),
                ));
            }
            all.push(scenario);
        }
    }
    Ok(all)
}

/// Keys of a scenario.
const KEYS: [&str; 14] = [
    "name",
    "model",
    "size",
    "resolution",
    "frames",
    "steps",
    "measured_steps",
    "guidance",
    "image",
    "precision",
    "attention",
    "offload",
    "warmups",
    "rounds",
];

/// Reads one `[[scenario]]` and names file, scenario and key in every refusal.
struct Reader<'a> {
    file: &'a str,
    title: String,
    table: &'a Table,
}

impl<'a> Reader<'a> {
    fn new(file: &'a str, index: usize, table: &'a Table) -> Result<Self> {
        let title = table.get("name").and_then(Value::as_str).map_or_else(
            || format!("scenario {}", index + 1),
            |name| format!("scenario `{name}`"),
        );
        let reader = Self { file, title, table };
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                let near = KEYS
                    .iter()
                    .max_by(|a, b| strsim::jaro(a, key).total_cmp(&strsim::jaro(b, key)))
                    .filter(|near| strsim::jaro(near, key) > 0.7);
                let remedy = near.map_or_else(
                    || format!("known keys: {}", KEYS.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(reader.refuse(key, &format!("is not known; {remedy}")));
            }
        }
        Ok(reader)
    }

    fn refuse(&self, key: &str, what: &str) -> anyhow::Error {
        bad_input(format!("{}: {}: `{key}` {what}", self.file, self.title))
    }

    /// The values of an axis: one, or each of a list.
    fn axis(&self, key: &str, default: Option<Value>) -> Result<Vec<Value>> {
        let values = match (self.table.get(key), default) {
            (Some(Value::Array(values)), _) => values.clone(),
            (Some(value), _) => vec![value.clone()],
            (None, Some(default)) => vec![default],
            (None, None) => return Err(self.refuse(key, "is missing; every scenario needs it")),
        };
        if values.is_empty() {
            return Err(self.refuse(key, "is an empty list; give one value or more"));
        }
        Ok(values)
    }

    fn texts(&self, key: &str, default: Option<&str>) -> Result<Vec<String>> {
        self.axis(key, default.map(Value::from))?
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => {
                    Err(self.refuse(key, &format!("is {other}; a text in quotes is expected")))
                }
            })
            .collect()
    }

    fn parsed<T>(&self, key: &str, default: Option<&str>) -> Result<Vec<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.texts(key, default)?
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|error| self.refuse(key, &format!("is \"{text}\": {error}")))
            })
            .collect()
    }

    fn counts(&self, key: &str, default: Option<usize>, least: usize) -> Result<Vec<usize>> {
        let default = default.map(|count| Value::from(count as i64));
        self.axis(key, default)?
            .into_iter()
            .map(|value| {
                value
                    .as_integer()
                    .and_then(|count| usize::try_from(count).ok())
                    .filter(|&count| (least..=1_000_000).contains(&count))
                    .ok_or_else(|| {
                        let wanted = format!("is {value}; a whole number from {least} is expected");
                        self.refuse(key, &wanted)
                    })
            })
            .collect()
    }

    /// A key that may not be a list.
    fn single<T>(&self, key: &str, values: Vec<T>) -> Result<T> {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(self.refuse(key, "cannot be a list; write one scenario per value")),
        }
    }

    /// All combinations of the axes.
    fn all(&self) -> Result<Vec<Scenario>> {
        let name = self.single("name", self.texts("name", None)?)?;
        let kinds: Vec<ModelKind> = self.parsed("model", None)?;
        let size = match self
            .single("size", self.texts("size", Some("released"))?)?
            .as_str()
        {
            "tiny" => ModelSize::Tiny,
            "released" => ModelSize::Released,
            other => {
                let what = format!("is \"{other}\"; it is \"tiny\" or \"released\"");
                return Err(self.refuse("size", &what));
            }
        };
        let resolutions: Vec<Resolution> = self.parsed("resolution", Some("832x480"))?;
        let frames = self.counts("frames", Some(81), 1)?;
        let steps = self.counts("steps", Some(30), 1)?;
        let guidance = match self.single(
            "guidance",
            self.axis("guidance", Some(Value::from(5.0_f64)))?,
        )? {
            Value::Float(value) if (0.0..=100.0).contains(&value) => value,
            Value::Integer(value) if (0..=100).contains(&value) => value as f64,
            other => {
                let what = format!("is {other}; a number from 0 to 100 is expected");
                return Err(self.refuse("guidance", &what));
            }
        };
        let image = match self.table.get("image") {
            None => None,
            Some(Value::Boolean(image)) => Some(*image),
            Some(other) => {
                return Err(self.refuse("image", &format!("is {other}; true or false is expected")));
            }
        };
        let precisions: Vec<Precision> = self.parsed("precision", Some("bf16"))?;
        let attentions: Vec<AttentionPreference> = self.parsed("attention", Some("auto"))?;
        let offloads: Vec<Offload> = self.parsed("offload", Some("none"))?;
        let measured = match self.table.get("measured_steps") {
            None => None,
            Some(_) => {
                Some(self.single("measured_steps", self.counts("measured_steps", None, 1)?)?)
            }
        };
        let warmups = self.single("warmups", self.counts("warmups", Some(1), 0)?)?;
        let rounds = self.single("rounds", self.counts("rounds", Some(5), 1)?)?;

        let mut all = Vec::new();
        for &kind in &kinds {
            let image = self.image(kind, image)?;
            for resolution in &resolutions {
                for &frames in &frames {
                    if frames % 4 != 1 {
                        let what = format!("is {frames}; these models make 4n + 1 frames");
                        return Err(self.refuse("frames", &what));
                    }
                    for &steps in &steps {
                        for precision in &precisions {
                            for attention in &attentions {
                                for offload in &offloads {
                                    let measured_steps = measured.unwrap_or(steps);
                                    if measured_steps > steps {
                                        let what = format!(
                                            "is {measured_steps}, more than the {steps} of the job"
                                        );
                                        return Err(self.refuse("measured_steps", &what));
                                    }
                                    let mut scenario = Scenario {
                                        name: name.clone(),
                                        model: kind.to_string(),
                                        size,
                                        width: resolution.width,
                                        height: resolution.height,
                                        frames,
                                        steps,
                                        measured_steps,
                                        guidance,
                                        image,
                                        precision: *precision,
                                        attention: attention.to_string(),
                                        offload: offload.to_string(),
                                        warmups,
                                        rounds,
                                    };
                                    scenario.name = self.full_name(&scenario);
                                    all.push(scenario);
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(all)
    }

    /// What the model makes of `image`: the key, or what the model usually gets.
    fn image(&self, kind: ModelKind, image: Option<bool>) -> Result<bool> {
        match (kind, image) {
            (ModelKind::I2vA14b, Some(false)) => {
                Err(self.refuse("image", "is false, but i2v-a14b needs a first frame"))
            }
            (ModelKind::T2vA14b | ModelKind::Wan21T2v, Some(true)) => Err(self.refuse(
                "image",
                &format!("is true, but {kind} takes no first frame"),
            )),
            (_, Some(image)) => Ok(image),
            (kind, None) => Ok(matches!(kind, ModelKind::I2vA14b | ModelKind::Ti2v5b)),
        }
    }

    /// The name with the values of the axes that are lists.
    fn full_name(&self, scenario: &Scenario) -> String {
        let axes: [(&str, String); 7] = [
            ("model", scenario.model.clone()),
            (
                "resolution",
                format!("{}x{}", scenario.width, scenario.height),
            ),
            ("frames", format!("{}f", scenario.frames)),
            ("steps", format!("{}s", scenario.steps)),
            ("precision", scenario.precision.to_string()),
            ("attention", scenario.attention.clone()),
            ("offload", scenario.offload.clone()),
        ];
        let is_list = |key: &str| matches!(self.table.get(key), Some(Value::Array(values)) if values.len() > 1);
        let tail: String = axes
            .iter()
            .filter(|(key, _)| is_list(key))
            .map(|(_, value)| format!("/{value}"))
            .collect();
        scenario.name.clone() + &tail
    }
}

/// `WIDTHxHEIGHT`.
struct Resolution {
    width: usize,
    height: usize,
}

impl FromStr for Resolution {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        text.split_once('x')
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
            .filter(|&(width, height)| width > 0 && height > 0)
            .map(|(width, height)| Self { width, height })
            .ok_or_else(|| "WIDTHxHEIGHT is expected, such as 832x480".to_owned())
    }
}

/// The scenarios that were asked for.
pub(crate) fn select(
    files: &[std::path::PathBuf],
    set: Set,
    filter: Option<&str>,
) -> Result<Vec<Scenario>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file).with_context(|| "--scenarios")?);
    }
    if files.is_empty() {
        all = built_in(set)?;
    }
    let names: Vec<String> = all.iter().map(|scenario| scenario.name.clone()).collect();
    all.retain(|scenario| filter.is_none_or(|part| scenario.name.contains(part)));
    if all.is_empty() {
        return Err(bad_input(format!(
            "no scenario's name contains \"{}\"; there are: {}",
            filter.unwrap_or_default(),
            names.join(", ")
        )));
    }
    Ok(all)
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
