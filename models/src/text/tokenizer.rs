//! Prompt to token ids, as the reference's Python stack tokenizes.
//!
//! Wan checkpoints name the tokenizer class `T5Tokenizer`. That class, in transformers 5.14.1, does not
//! run the pipeline stored in `tokenizer.json`: it takes the vocabulary, the SentencePiece character map
//! and the added tokens from the file and builds its own pipeline around them (split on whitespace, `▁`
//! before every word, unigram, `</s>` at the end), with **token 2 for characters outside the
//! vocabulary, whatever the file says**. In the published UMT5 vocabulary token 2 is `<s>` and
//! `<unk>` is 3, so for such characters the stack and the file disagree. The stack is what models are
//! judged against, so the stack is what this module equals. Only for the generic classes
//! (`PreTrainedTokenizerFast`, `TokenizersBackend`) is the file's own pipeline run.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer, TruncationParams};

use crate::error::{Error, Result};

/// Rows of text the transformer sees; longer prompts are cut, `</s>` stays last.
pub const MAX_TOKENS: usize = 512;

/// Longest prompt that is accepted, in bytes of UTF-8: far above what 512 tokens can hold.
pub const MAX_PROMPT_BYTES: usize = 64 << 10;

/// Token that `T5Tokenizer` gives to characters outside the vocabulary.
const UNKNOWN: usize = 2;

/// Largest tokenizer file that is read; the published one has 17 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Sentinels `T5Tokenizer` adds when the configuration names none.
const DEFAULT_EXTRA_IDS: u64 = 100;

/// Refuses a prompt that is too long to be meant, before any work is done on it.
///
/// `field` is the name of the option or JSON field. An empty text is fine here: negative prompts are
/// empty by default.
///
/// # Errors
/// [`Error::Caller`] above [`MAX_PROMPT_BYTES`].
pub fn validate_prompt(field: &str, text: &str) -> Result<()> {
    if text.len() <= MAX_PROMPT_BYTES {
        return Ok(());
    }
    Err(Error::caller(
        field,
        format!(
            "has {} bytes, at most {MAX_PROMPT_BYTES} are accepted (the model reads the first \
             {MAX_TOKENS} tokens)",
            text.len()
        ),
    ))
}

/// The tokenizer of one checkpoint.
#[derive(Debug)]
pub struct PromptTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    pad_id: u32,
}

/// The parts of `tokenizer.json` that `T5Tokenizer` uses.
#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelFile,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    added_tokens: Vec<AddedTokenFile>,
}

#[derive(Deserialize)]
struct ModelFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Vec<(String, f64)>,
}

#[derive(Deserialize)]
struct AddedTokenFile {
    id: u32,
    #[serde(flatten)]
    token: TokenEntry,
}

/// An added token with its matching rules.
#[derive(Deserialize)]
struct TokenEntry {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl TokenEntry {
    fn build(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl PromptTokenizer {
    /// Opens the folder with `tokenizer.json` and, beside it, `tokenizer_config.json` and
    /// `special_tokens_map.json` where they exist.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the files are missing, damaged or describe another kind of tokenizer.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        let text = read(&path)?.ok_or_else(|| {
            Error::artifact(
                &path,
                "is missing: a checkpoint needs the tokenizer it was made with",
            )
        })?;
        let config = settings(dir)?;
        let class = class_name(dir, &config)?;
        let bad = |error: &dyn std::fmt::Display| Error::artifact(&path, error.to_string());
        let file: TokenizerFile = serde_json::from_slice(&text).map_err(|e| bad(&e))?;
        let map = character_map(&file.normalizer).map_err(|e| bad(&e))?;
        let mut tokenizer = match class.as_str() {
            "T5Tokenizer" | "T5TokenizerFast" => rebuild(file, map, &config),
            "PreTrainedTokenizerFast" | "TokenizersBackend" => {
                guard(|| Tokenizer::from_bytes(&text))
            }
            other => {
                let path = dir.join("tokenizer_config.json");
                let message = format!("tokenizer class {other} is not supported: use T5Tokenizer");
                return Err(Error::artifact(path, message));
            }
        }
        .map_err(|e| bad(&e))?;
        let truncation = TruncationParams {
            max_length: MAX_TOKENS,
            ..Default::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|e| bad(&e))?
            .with_padding(None);
        let pad = content(config.get("pad_token")).unwrap_or("<pad>");
        let pad_id = tokenizer
            .token_to_id(pad)
            .ok_or_else(|| bad(&format!("padding token {pad} is not in the vocabulary")))?;
        Ok(Self {
            path,
            tokenizer,
            pad_id,
        })
    }

    /// Ids of a cleaned prompt, `</s>` last, at most [`MAX_TOKENS`]; no padding.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the tables of the tokenizer turn out to be damaged.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guard(|| self.tokenizer.encode_fast(text, true))
            .map_err(|error| Error::artifact(&self.path, error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Id that the reference pads with (0 in every released model).
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// One more than the largest id that can come out of [`PromptTokenizer::encode`]; the text
    /// encoder's embedding needs at least as many rows.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

/// Turns a panic of the tokenizer library into an error: it trusts the tables in the file (indices of
/// the character map, for one), and those come from whoever made the checkpoint.
fn guard<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the tables of the tokenizer are inconsistent".into()))
}

/// Reads a file of bounded size; `None` when there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
        Ok(meta) if !meta.is_file() => return Err(Error::artifact(path, "is not a file")),
        Ok(meta) if meta.len() > MAX_FILE_BYTES => {
            let message = format!(
                "has {} bytes, expected at most {MAX_FILE_BYTES}",
                meta.len()
            );
            return Err(Error::artifact(path, message));
        }
        Ok(_) => {}
    }
    fs::read(path)
        .map(Some)
        .map_err(|error| Error::io(path, error))
}

fn read_object(path: &Path) -> Result<serde_json::Map<String, Value>> {
    let Some(text) = read(path)? else {
        return Ok(serde_json::Map::new());
    };
    serde_json::from_slice(&text).map_err(|error| Error::artifact(path, error.to_string()))
}

/// `tokenizer_config.json`, with the entries of `special_tokens_map.json` over it. The latter is
/// ignored, as in the reference, when the former lists `added_tokens_decoder`.
fn settings(dir: &Path) -> Result<serde_json::Map<String, Value>> {
    let mut config = read_object(&dir.join("tokenizer_config.json"))?;
    if !config.contains_key("added_tokens_decoder") {
        config.extend(read_object(&dir.join("special_tokens_map.json"))?);
    }
    Ok(config)
}

/// The class the reference loads: a diffusers folder names it in `model_index.json` beside this
/// folder; elsewhere it is in the configuration.
fn class_name(dir: &Path, config: &serde_json::Map<String, Value>) -> Result<String> {
    let index = match dir.parent() {
        Some(parent) => read_object(&parent.join("model_index.json"))?,
        None => serde_json::Map::new(),
    };
    let class = index
        .get("tokenizer")
        .and_then(|entry| entry.get(1))
        .or_else(|| config.get("tokenizer_class"))
        .and_then(Value::as_str);
    Ok(class.unwrap_or("T5Tokenizer").to_owned())
}

/// Text of a token given as a string or as an object.
fn content(value: Option<&Value>) -> Option<&str> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The pipeline that `T5Tokenizer` builds.
fn rebuild(
    file: TokenizerFile,
    map: Option<Precompiled>,
    config: &serde_json::Map<String, Value>,
) -> tokenizers::Result<Tokenizer> {
    if let Some(kind) = file.model.kind.as_deref().filter(|kind| *kind != "Unigram") {
        return Err(format!("the model is {kind}, a T5 tokenizer is Unigram").into());
    }
    let added = added_tokens(&file, config)?;
    let model = Unigram::from(file.model.vocab, Some(UNKNOWN), false)?;
    let mut tokenizer = Tokenizer::new(model);
    if let Some(map) = map {
        tokenizer.with_normalizer(Some(map))?;
    }
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(Metaspace::new('▁', PrependScheme::Always, true)),
    ])));
    tokenizer.add_tokens(added)?;
    let eos = content(config.get("eos_token")).unwrap_or("</s>");
    let eos = tokenizer
        .token_to_id(eos)
        .ok_or_else(|| format!("token {eos} is missing"))?;
    let template = TemplateProcessing::builder()
        .try_single("$A </s>")?
        .special_tokens(vec![("</s>", eos)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

/// The SentencePiece character map, the only normalizer `T5Tokenizer` keeps.
fn character_map(normalizer: &Value) -> tokenizers::Result<Option<Precompiled>> {
    let parts = match normalizer.get("normalizers").and_then(Value::as_array) {
        Some(parts) => parts.as_slice(),
        None => std::slice::from_ref(normalizer),
    };
    let encoded = parts
        .iter()
        .filter(|part| part.get("type").and_then(Value::as_str) == Some("Precompiled"))
        .find_map(|part| part.get("precompiled_charsmap"));
    let Some(encoded) = encoded else {
        return Ok(None);
    };
    let damaged = "the normalizer's precompiled_charsmap is damaged";
    let bytes = STANDARD
        .decode(encoded.as_str().ok_or(damaged)?)
        .map_err(|_| damaged)?;
    // The library reserves memory for as many entries as the first word announces.
    let announced = match bytes.first_chunk::<4>() {
        Some(word) => u32::from_le_bytes(*word) as usize,
        None => return Err(damaged.into()),
    };
    if announced < 4 || announced > bytes.len() - 4 {
        return Err(damaged.into());
    }
    Ok(Some(Precompiled::from(&bytes).map_err(|_| damaged)?))
}

/// Tokens matched before the model runs, in the order in which the reference adds them: those of the
/// file by id, the named ones, the sentinels. New ones get the next free ids.
fn added_tokens(
    file: &TokenizerFile,
    config: &serde_json::Map<String, Value>,
) -> tokenizers::Result<Vec<AddedToken>> {
    let mut by_id: BTreeMap<u32, AddedToken> = BTreeMap::new();
    match config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
    {
        Some(listed) => {
            for (id, entry) in listed {
                by_id.insert(id.parse()?, TokenEntry::deserialize(entry)?.build());
            }
        }
        None => by_id.extend(
            file.added_tokens
                .iter()
                .map(|added| (added.id, added.token.build())),
        ),
    }
    let mut tokens: Vec<AddedToken> = by_id.into_values().collect();
    let mut push = |content: &str| {
        if !tokens.iter().any(|token| token.content == content) {
            tokens.push(AddedToken::from(content, true));
        }
    };
    const NAMED: [(&str, Option<&str>); 7] = [
        ("bos_token", None),
        ("eos_token", Some("</s>")),
        ("unk_token", Some("<unk>")),
        ("sep_token", None),
        ("pad_token", Some("<pad>")),
        ("cls_token", None),
        ("mask_token", None),
    ];
    for (name, default) in NAMED {
        if let Some(token) = content(config.get(name)).or(default) {
            push(token);
        }
    }
    let listed = ["extra_special_tokens", "additional_special_tokens"]
        .into_iter()
        .find_map(|name| config.get(name)?.as_array());
    if let Some(listed) = listed {
        listed
            .iter()
            .filter_map(|token| content(Some(token)))
            .for_each(&mut push);
    } else {
        let count = config
            .get("extra_ids")
            .and_then(Value::as_u64)
            .unwrap_or(DEFAULT_EXTRA_IDS);
        for id in 0..count.min(10_000) {
            push(&format!("<extra_id_{id}>"));
        }
    }
    Ok(tokens)
}
