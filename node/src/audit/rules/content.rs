//! What a careful reader refuses in a repository: pickles, code, archives, indices that lie, tensors that
//! are in two shards. Files are looked at by their content as well as by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};

use serde_json::Value;
use zip::ZipArchive;

use super::pickle::{MAX_BYTES, Walk, walk};
use super::{MAX_CONFIG, read, read_object};
use crate::audit::disk::Source;
use crate::audit::finding::{Finding, Rule, Severity};
use crate::audit::tree::{Tree, TreeFile};
use crate::audit::weights::stored_tensors;

/// Largest shard index.
const MAX_INDEX: u64 = 16 << 20;
/// Most members of an archive that are looked at.
const MAX_MEMBERS: usize = 100_000;
/// Most bytes of pickles that are walked in one archive.
const MAX_WALKED: u64 = 256 << 20;
/// Most names listed in one message.
const SHOWN: usize = 8;

const CODE: [&str; 26] = [
    "py", "pyc", "pyo", "pyd", "ipynb", "so", "dll", "dylib", "exe", "sh", "bash", "bat", "cmd",
    "ps1", "js", "mjs", "wasm", "jar", "class", "lua", "pl", "rb", "php", "com", "msi", "whl",
];
const ARCHIVES: [&str; 12] = [
    "zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar", "lz4", "egg", "iso",
];
const PICKLES: [&str; 9] = [
    "bin", "pt", "pth", "ckpt", "pkl", "pickle", "joblib", "dill", "npy",
];

/// Looks at all files of a repository; values of weights are not read.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        if let Err(error) = check_file(tree, file, &mut findings) {
            findings.push(Finding::new(
                Rule::CouldNotRead,
                &file.path,
                error.to_string(),
            ));
        }
    }
    check_shards(tree, &mut findings);
    findings.sort();
    findings
}

fn ending(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.')
        .map(|(_, ending)| ending.to_lowercase())
        .unwrap_or_default()
}

fn check_file(
    tree: &Tree,
    file: &TreeFile,
    findings: &mut Vec<Finding>,
) -> leoma_models::Result<()> {
    let ending = ending(&file.path);
    let mut source = Source::open(&file.target, &tree.shown(file))?;
    let mut head = [0_u8; 8];
    let length = head
        .len()
        .min(usize::try_from(source.size()).unwrap_or(head.len()));
    source.read(&mut head[..length], 0)?;
    let head = &head[..length];
    let mut find = |rule, message: String| findings.push(Finding::new(rule, &file.path, message));

    let program = match head {
        [0x7f, b'E', b'L', b'F', ..] => Some("a program or library of Linux"),
        [b'M', b'Z', ..] if ending != "safetensors" => Some("a program or library of Windows"),
        [0xcf, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
            Some("a program or library of macOS, or Java code")
        }
        [b'#', b'!', ..] => Some("a script"),
        [0, b'a', b's', b'm', ..] => Some("WebAssembly code"),
        _ => None,
    };
    if let Some(what) = program {
        find(Rule::CodeFile, format!("its content is {what}"));
    } else if CODE.contains(&ending.as_str()) {
        find(
            Rule::CodeFile,
            format!("a .{ending} file is code; a checkpoint needs none"),
        );
    }

    let zip = head.starts_with(b"PK\x03\x04");
    if PICKLES.contains(&ending.as_str())
        || head.starts_with(b"\x80\x02")
        || head.starts_with(b"\x80\x04")
    {
        if zip {
            check_archive(&source, file, findings);
        } else {
            check_pickle(&mut source, file, findings)?;
        }
    } else if zip || ARCHIVES.contains(&ending.as_str()) {
        find(
            Rule::NestedArchive,
            "an archive; no reader of checkpoints looks inside".into(),
        );
    }
    if file.path.ends_with(".json") {
        check_json(tree, file, findings);
    }
    Ok(())
}

/// A PyTorch archive: every member that is a pickle is walked.
fn check_archive(source: &Source, file: &TreeFile, findings: &mut Vec<Finding>) {
    let mut find = |rule, message: String| findings.push(Finding::new(rule, &file.path, message));
    let mut archive = match ZipArchive::new(BufReader::new(source.file())) {
        Ok(archive) => archive,
        Err(error) => {
            return find(
                Rule::PickleMalformed,
                format!("not a readable archive: {error}"),
            );
        }
    };
    if archive.len() > MAX_MEMBERS {
        let message = format!("{} members; {MAX_MEMBERS} are looked at", archive.len());
        return find(Rule::PickleMalformed, message);
    }
    let mut left = MAX_WALKED;
    let mut pickles = 0;
    for index in 0..archive.len() {
        let member = match archive.by_index(index) {
            Ok(member) => member,
            Err(error) => {
                find(
                    Rule::PickleMalformed,
                    format!("member {index} cannot be read: {error}"),
                );
                continue;
            }
        };
        let name = member
            .name()
            .map_or_else(|_| String::new(), |name| name.escape_debug().to_string());
        // Storages are raw numbers under `data/`; anything else that begins like a pickle is one.
        let storage = name.contains("/data/") || name.starts_with("data/");
        let limit = MAX_BYTES.min(left);
        let mut bytes = Vec::new();
        let wanted = if storage { 2 } else { limit };
        if let Err(error) = member.take(wanted).read_to_end(&mut bytes) {
            find(
                Rule::PickleMalformed,
                format!("member `{name}` cannot be read: {error}"),
            );
            continue;
        }
        if CODE.contains(&ending(&name).as_str()) && !name.ends_with(".pkl") {
            find(Rule::CodeFile, format!("member `{name}` is code"));
        }
        if storage || !(name.ends_with(".pkl") || bytes.first() == Some(&0x80)) {
            continue;
        }
        left = left.saturating_sub(bytes.len() as u64);
        pickles += 1;
        describe(&walk(&bytes), &format!("member `{name}`"), &mut find);
        if bytes.len() as u64 == limit {
            find(
                Rule::PickleMalformed,
                format!("member `{name}` is longer than {limit} bytes"),
            );
        }
    }
    find(
        Rule::PickleFile,
        format!(
            "a PyTorch archive with {pickles} pickle(s); safetensors files hold the same without code"
        ),
    );
}

fn check_pickle(
    source: &mut Source,
    file: &TreeFile,
    findings: &mut Vec<Finding>,
) -> leoma_models::Result<()> {
    let length = source.size().min(MAX_BYTES);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    source.read(&mut bytes, 0)?;
    let mut find = |rule, message: String| findings.push(Finding::new(rule, &file.path, message));
    if !matches!(bytes.first(), Some(0x80 | b'(' | b'c' | b'}' | b']'))
        && file.path.ends_with(".npy")
    {
        return Ok(());
    }
    describe(&walk(&bytes), "the file", &mut find);
    find(
        Rule::PickleFile,
        "a pickle; safetensors files hold the same without code".into(),
    );
    Ok(())
}

/// What was found in a pickle.
fn describe(walk: &Walk, place: &str, find: &mut dyn FnMut(Rule, String)) {
    let unusual: Vec<_> = walk.unusual().collect();
    if !unusual.is_empty() {
        let shown: Vec<_> = unusual
            .iter()
            .take(SHOWN)
            .map(|name| format!("`{}`", name.escape_debug()))
            .collect();
        let more = unusual.len().saturating_sub(SHOWN);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        find(
            Rule::PickleImport,
            format!("{place} refers to {}{more}", shown.join(", ")),
        );
    }
    if walk.unresolved {
        let message = format!("{place} refers to names that are computed while it is loaded");
        find(Rule::PickleImport, message);
    }
    if let Some(what) = &walk.malformed {
        find(
            Rule::PickleMalformed,
            format!("{place} is no whole pickle: {what}"),
        );
    }
}

/// Configurations may not name code, indices have to tell the truth.
fn check_json(tree: &Tree, file: &TreeFile, findings: &mut Vec<Finding>) {
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    if name.ends_with(".safetensors.index.json") {
        check_index(tree, file, findings);
    } else if name == "model_index.json" || name.ends_with("config.json") {
        match read_object(tree, file, MAX_CONFIG) {
            Err(error) => {
                findings.push(Finding::new(
                    Rule::ConfigRefused,
                    &file.path,
                    error.to_string(),
                ));
            }
            Ok(config) => {
                for key in ["auto_map", "custom_pipelines", "trust_remote_code"] {
                    if config
                        .get(key)
                        .is_some_and(|value| *value != Value::Bool(false))
                    {
                        let message =
                            format!("`{key}` asks the reader to run code of the repository");
                        findings.push(Finding::new(Rule::CustomCode, &file.path, message));
                    }
                }
            }
        }
    }
}

fn check_index(tree: &Tree, file: &TreeFile, findings: &mut Vec<Finding>) {
    let mut find =
        |message: String| findings.push(Finding::new(Rule::IndexMismatch, &file.path, message));
    let map = match read(tree, file, MAX_INDEX) {
        Err(error) => return find(error.to_string()),
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes),
    };
    let map = match &map {
        Err(error) => return find(format!("bad JSON: {error}")),
        Ok(value) => value.get("weight_map").and_then(Value::as_object),
    };
    let Some(map) = map else {
        return find("has no `weight_map`".into());
    };
    let mut shards: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, shard) in map {
        let Some(shard) = shard.as_str() else {
            return find(format!(
                "the shard of `{}` is not text",
                tensor.escape_debug()
            ));
        };
        shards.entry(shard).or_default().insert(tensor);
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (shard, listed) in shards {
        let shown = shard.escape_debug().to_string();
        if shard.contains(['/', '\\', ':']) || shard == ".." || !shard.ends_with(".safetensors") {
            find(format!(
                "names the shard `{shown}`; shards are safetensors files beside their index"
            ));
            continue;
        }
        let path = if folder.is_empty() {
            shard.to_owned()
        } else {
            format!("{folder}/{shard}")
        };
        let Some(shard_file) = tree.file(&path) else {
            find(format!("names the shard `{shown}`, which is missing"));
            continue;
        };
        // A header that cannot be read is a finding of its own.
        let Some(held) = names_in(tree, shard_file) else {
            continue;
        };
        let absent: Vec<_> = listed
            .iter()
            .filter(|name| !held.contains(**name))
            .collect();
        let unlisted = held
            .iter()
            .filter(|name| !listed.contains(name.as_str()))
            .count();
        if let Some(first) = absent.first() {
            let message = format!(
                "says that `{shown}` holds `{}`; {} such names are not there",
                first.escape_debug(),
                absent.len()
            );
            find(message);
        }
        if unlisted > 0 {
            find(format!("leaves {unlisted} tensor(s) of `{shown}` out"));
        }
    }
}

fn names_in(tree: &Tree, file: &TreeFile) -> Option<BTreeSet<String>> {
    let path = tree.shown(file);
    let source = Source::open(&file.target, &path).ok()?;
    let tensors = stored_tensors(source.file(), std::path::Path::new(&file.path)).ok()?;
    Some(tensors.into_iter().map(|tensor| tensor.name).collect())
}

/// A tensor may be in one shard of a set only; sets are told apart by what stands before `-00001-of-`.
fn check_shards(tree: &Tree, findings: &mut Vec<Finding>) {
    let mut sets: BTreeMap<(&str, &str), Vec<&TreeFile>> = BTreeMap::new();
    for file in tree
        .files
        .iter()
        .filter(|file| file.path.ends_with(".safetensors"))
    {
        let stem = file.path.trim_end_matches(".safetensors");
        if let Some((set, numbers)) = stem.rsplit_once("-of-").and_then(|(head, total)| {
            let (set, number) = head.rsplit_once('-')?;
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            (digits(number) && digits(total)).then_some((set, total))
        }) {
            sets.entry((set, numbers)).or_default().push(file);
        }
    }
    for files in sets.into_values() {
        let mut first: BTreeMap<String, &str> = BTreeMap::new();
        for file in files {
            let Some(names) = names_in(tree, file) else {
                continue;
            };
            let mut twice = Vec::new();
            for name in names {
                if let Some(other) = first.get(&name) {
                    twice.push((name, *other));
                } else {
                    first.insert(name, &file.path);
                }
            }
            if let Some((name, other)) = twice.first() {
                let more = twice.len() - 1;
                let more = if more > 0 {
                    format!(", and {more} more tensors")
                } else {
                    String::new()
                };
                let message = format!("tensor `{}` is also in {other}{more}", name.escape_debug());
                findings.push(
                    Finding::new(Rule::DuplicateTensor, &file.path, message)
                        .with_severity(Severity::High),
                );
            }
        }
    }
}
