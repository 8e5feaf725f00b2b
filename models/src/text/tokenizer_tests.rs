#![allow(clippy::unwrap_used)]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{
    MAX_PROMPT_BYTES, PromptTokenizer, tiny_tokenizer_files, tiny_vocab_size, validate_prompt,
};
use crate::Fault;

fn write_tiny(dir: &Path) {
    for (name, content) in tiny_tokenizer_files() {
        std::fs::write(dir.join(name), content).unwrap();
    }
}

fn tiny() -> PromptTokenizer {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    PromptTokenizer::open(dir.path()).unwrap()
}

/// Changes one JSON file of a tokenizer folder.
fn edit(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(name);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Texts and their ids in transformers 5.14.1 (`T5TokenizerFast.from_pretrained`).
fn reference() -> Vec<(String, Vec<u32>)> {
    serde_json::from_str(include_str!("tokenizer_reference.json")).unwrap()
}

#[test]
fn ids_equal_the_reference() {
    let tokenizer = tiny();
    let cases = reference();
    assert!(cases.len() >= 30);
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
    assert_eq!(tokenizer.pad_id(), 0);
}

#[test]
fn the_tiny_vocabulary_covers_prompts_and_is_bounded() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.vocab_size(), tiny_vocab_size());
    assert!(
        (300..1600).contains(&tiny_vocab_size()),
        "{}",
        tiny_vocab_size()
    );
    let printable: String = (' '..='~').collect();
    let official = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，\
        JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，\
        静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";
    for text in [
        printable.as_str(),
        official,
        "low quality, blurry, distorted",
    ] {
        assert!(!tokenizer.encode(text).unwrap().contains(&2), "{text}");
    }
    assert!(tokenizer.encode("\u{10348}").unwrap().contains(&2));
    assert_eq!(tiny_tokenizer_files(), tiny_tokenizer_files());
}

#[test]
fn long_prompts_are_cut_and_keep_the_end_token() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.encode("").unwrap(), [1]);
    for words in [510, 511, 512, 5000] {
        let ids = tokenizer.encode(&"cat ".repeat(words)).unwrap();
        assert_eq!(ids.len(), (words + 1).min(512));
        assert_eq!(ids.last(), Some(&1));
        assert!(!ids[..ids.len() - 1].contains(&1));
    }
}

#[test]
fn the_class_decides_what_unknown_characters_become() {
    // A vocabulary in the published order: <s> is 2 and <unk> is 3.
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tokenizer");
    std::fs::create_dir(&folder).unwrap();
    write_tiny(&folder);
    edit(&folder, "tokenizer.json", |file| {
        let vocab = file["model"]["vocab"].as_array_mut().unwrap();
        vocab.insert(2, json!(["<s>", 0.0]));
        file["model"]["unk_id"] = json!(3);
        file["added_tokens"][2]["id"] = json!(3);
    });
    let encode = |text: &str| {
        PromptTokenizer::open(&folder)
            .unwrap()
            .encode(text)
            .unwrap()
    };
    let class = |name: &str| {
        edit(&folder, "tokenizer_config.json", |config| {
            config["tokenizer_class"] = json!(name);
        });
    };
    let unknown_is = |id: u32| assert!(encode("cat \u{10348}").contains(&id));
    unknown_is(2);
    assert!(encode("cat <unk>").contains(&3));
    class("T5TokenizerFast");
    unknown_is(2);
    class("PreTrainedTokenizerFast");
    unknown_is(3);
    // model_index.json of the pipeline goes before the folder's own configuration.
    let index = dir.path().join("model_index.json");
    std::fs::write(
        &index,
        r#"{"tokenizer": ["transformers", "T5TokenizerFast"]}"#,
    )
    .unwrap();
    unknown_is(2);
    std::fs::remove_file(index).unwrap();
    class("LlamaTokenizer");
    let error = PromptTokenizer::open(&folder).unwrap_err();
    assert_eq!(error.fault(), Fault::Artifact);
    assert!(error.to_string().contains("LlamaTokenizer"));
    std::fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    unknown_is(2);
}

#[test]
fn normalizers_other_than_the_character_map_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    let plain = PromptTokenizer::open(dir.path())
        .unwrap()
        .encode("A CAT")
        .unwrap();
    edit(dir.path(), "tokenizer.json", |file| {
        file["normalizer"] = json!({"type": "Lowercase"});
    });
    assert_eq!(
        PromptTokenizer::open(dir.path())
            .unwrap()
            .encode("A CAT")
            .unwrap(),
        plain
    );
    // The character map is kept, also in a sequence; a damaged one is refused.
    let map = |bytes: &[u8]| {
        edit(dir.path(), "tokenizer.json", |file| {
            file["normalizer"] = json!({"type": "Sequence", "normalizers": [
                {"type": "Lowercase"},
                {"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)},
            ]});
        });
        PromptTokenizer::open(dir.path())
    };
    // One trie entry that leads nowhere, and no replacements.
    let entry = |unit: u32| [&4_u32.to_le_bytes()[..], &unit.to_le_bytes(), b"\0"].concat();
    for bytes in [&b""[..], b"abc", &[0xff; 16], &[8, 0, 0, 0, 1, 2, 3, 4]] {
        assert_eq!(map(bytes).unwrap_err().fault(), Fault::Artifact);
    }
    // This one points outside its table, which shows only when it is used.
    let error = map(&entry(0x7fff_fc00))
        .unwrap()
        .encode("a cat")
        .unwrap_err();
    assert_eq!(error.fault(), Fault::Artifact);
    let tokenizer = map(&identity_map()).unwrap();
    assert_eq!(tokenizer.encode("A CAT").unwrap(), plain);
}

/// A character map that maps nothing: 256 trie entries whose labels match no byte.
fn identity_map() -> Vec<u8> {
    let mut bytes = 1024_u32.to_le_bytes().to_vec();
    bytes.extend(0_u32.to_le_bytes());
    for _ in 1..256 {
        bytes.extend(0x8000_0000_u32.to_le_bytes());
    }
    bytes
}

#[test]
fn sentinels_are_added_when_the_configuration_names_none() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    let size = tiny_vocab_size() as u32;
    let encode = |text: &str| {
        PromptTokenizer::open(dir.path())
            .unwrap()
            .encode(text)
            .unwrap()
    };
    assert!(!encode("<extra_id_7>").contains(&(size + 7)));
    edit(dir.path(), "tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().remove("extra_ids");
    });
    assert_eq!(encode("<extra_id_7>"), [size + 7, 1]);
    edit(dir.path(), "tokenizer_config.json", |config| {
        config["additional_special_tokens"] = json!(["<foo>", {"content": "<bar>"}]);
    });
    assert_eq!(encode("<foo><bar>"), [size, size + 1, 1]);
}

#[test]
fn damaged_folders_are_the_artifacts_fault() {
    let dir = tempfile::tempdir().unwrap();
    let open = || PromptTokenizer::open(dir.path()).unwrap_err();
    assert_eq!(open().fault(), Fault::Artifact);
    assert!(open().to_string().contains("tokenizer.json"));
    for garbage in [
        "",
        "{",
        "[]",
        "null",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}",
    ] {
        std::fs::write(dir.path().join("tokenizer.json"), garbage).unwrap();
        assert_eq!(open().fault(), Fault::Artifact, "{garbage}");
    }
    let broken: [fn(&mut Value); 5] = [
        |file| file["model"]["vocab"] = json!([]),
        |file| file["model"]["vocab"] = json!([["<pad>", 0.0], ["</s>", 0.0]]),
        |file| file["model"]["type"] = json!("BPE"),
        |file| file["model"]["vocab"][5] = json!(["a"]),
        |file| file["added_tokens"] = json!([{"content": "x"}]),
    ];
    for change in broken {
        write_tiny(dir.path());
        edit(dir.path(), "tokenizer.json", change);
        assert_eq!(open().fault(), Fault::Artifact);
    }
    write_tiny(dir.path());
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert_eq!(open().fault(), Fault::Artifact);
}

#[test]
fn huge_prompts_are_refused_at_once() {
    assert!(validate_prompt("prompt", "").is_ok());
    assert!(validate_prompt("prompt", &"a".repeat(MAX_PROMPT_BYTES)).is_ok());
    let error = validate_prompt("negative_prompt", &"a".repeat(10 << 20)).unwrap_err();
    assert_eq!(error.fault(), Fault::Caller);
    assert!(
        error.to_string().starts_with("negative_prompt: "),
        "{error}"
    );
}
