//! A small byte-level tokenizer of its own, in the form of Qwen's: every byte is a token, a few pairs are
//! merged, digits stand alone, the marks of a conversation are special.

use serde_json::{Value, json};

/// Pairs of English text that are merged, the commonest first; `Ġ` is a space before a word.
const MERGES: &str = "Ġ t,h e,i n,e r,Ġ a,r e,o n,Ġ s,a t,e n,o r,Ġ w,e s,i s,Ġt h,o u,i t,a l,in g,Ġth e,\
    Ġ f,Ġ o,e d,s t,Ġ m,a n,a r,i m,r o,o m,f r,fr a,fra m,fram e,i d,e o,Ġ v,Ġv id,Ġvid eo,a g,im ag,\
    imag e,s c,sc or,scor e,p t,t y,c e,l i,v e,s e,Ġ d,Ġ i,u r,u t,c o,Ġ b,Ġ p,o w";

/// Special tokens, in the order of their ids, after the words.
pub(super) const SPECIAL: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// How a text is cut before pairs are merged; Qwen's own expression: words with one sign before them, single
/// digits, runs of signs, white space.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The character that stands for a byte: itself where it can be seen, else one from 256 on (GPT-2's table).
fn symbol(byte: u8) -> char {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if seen(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !seen(other)).count() as u32;
    char::from_u32(256 + before).unwrap_or(' ')
}

fn merges() -> impl Iterator<Item = (&'static str, &'static str)> {
    MERGES
        .split(',')
        .filter_map(|pair| pair.trim().split_once(' '))
}

/// Words in the order of their ids, without the special ones.
fn words() -> Vec<String> {
    let mut words: Vec<String> = (0..=255u8).map(|byte| symbol(byte).to_string()).collect();
    words.extend(merges().map(|(a, b)| format!("{a}{b}")));
    words
}

/// Id of a special token.
pub(super) fn special_id(name: &str) -> Option<u32> {
    let index = SPECIAL.iter().position(|token| *token == name)?;
    Some((words().len() + index) as u32)
}

/// Ids of the digits 1 to 5.
pub(super) fn digit_ids() -> [u32; 5] {
    [b'1', b'2', b'3', b'4', b'5'].map(u32::from)
}

/// Rows that an embedding needs, rounded up as published models do.
pub(super) fn vocab_size() -> usize {
    (words().len() + SPECIAL.len()).next_multiple_of(64)
}

/// The files: name and content.
pub(super) fn files() -> Vec<(&'static str, Value)> {
    let words = words();
    let count = words.len();
    let vocab: serde_json::Map<String, Value> = words
        .into_iter()
        .enumerate()
        .map(|(id, word)| (word, json!(id)))
        .collect();
    let merges: Vec<Value> = merges().map(|(a, b)| json!([a, b])).collect();
    let special: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(index, token)| {
            json!({
                "id": count + index, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false
    });
    let split = json!({
        "type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
        "post_processor": bytes,
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    });
    let config = json!({
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": false,
        "bos_token": null,
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262_144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": false,
        "unk_token": null,
    });
    vec![
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_symbol_of_its_own() {
        let mut symbols: Vec<char> = (0..=255u8).map(symbol).collect();
        assert_eq!(symbol(b' '), 'Ġ');
        assert_eq!(symbol(b'\n'), 'Ċ');
        assert_eq!(symbol(b'a'), 'a');
        assert_eq!(symbol(0xad), 'Ń');
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols.len(), 256);
    }

    #[test]
    fn merges_are_of_words_that_exist() {
        let words = words();
        let mut known: Vec<String> = words[..256].to_vec();
        for (a, b) in merges() {
            assert!(known.iter().any(|word| word == a), "{a}");
            assert!(known.iter().any(|word| word == b), "{b}");
            known.push(format!("{a}{b}"));
        }
        let mut distinct = known.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), known.len());
        assert!(merges().count() > 50);
    }
}
