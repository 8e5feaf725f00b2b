#![allow(clippy::unwrap_used)]

use sha2::{Digest, Sha256};

use super::clean_prompt;

const OFFICIAL: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，\
    JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，\
    静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

fn hex(digest: &[u8]) -> String {
    digest
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Texts and what `prompt_clean` of diffusers 0.35.2 makes of them with ftfy 6.3.1: chosen ones first,
/// then a sample of generated mojibake, entities and mixtures.
#[test]
fn texts_equal_the_reference() {
    let cases: Vec<(String, String)> =
        serde_json::from_str(include_str!("clean_reference.json")).unwrap();
    assert!(cases.len() > 500);
    let wrong: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (text, expected, clean_prompt(text)))
        .filter(|(_, expected, found)| *expected != found)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        cases.len()
    );
}

/// Digests of the reference's answers for every code point below U+10000.
#[test]
fn every_code_point_equals_the_reference() {
    for (before, after, expected) in [
        ("", "", "c4eb1fe6fe1e63fdf12a353afef107d0"),
        ("a", "b", "7ac5b866d65e4bfd114c0667afcc3fc5"),
        ("Ã©", "", "573fa83394c6a3378cfdf1d391727ac2"),
    ] {
        let mut digest = Sha256::new();
        for c in (0..0x1_0000).filter_map(char::from_u32) {
            digest.update(clean_prompt(&format!("{before}{c}{after}")));
            digest.update([0xff]);
        }
        assert_eq!(hex(&digest.finalize()[..16]), expected, "{before}_{after}");
    }
}

#[test]
fn the_official_negative_prompt() {
    assert_eq!(
        hex(&Sha256::digest(OFFICIAL)),
        "ce96e0324e4b54ce4b6e867f669ca520952e1a34cc116543516b1897f0d3c47e"
    );
    let cleaned = clean_prompt(OFFICIAL);
    assert_eq!(
        hex(&Sha256::digest(&cleaned)),
        "42811917cca5c2c7e47e55003083c67a4f9122f03b95a1cfe8a4001ea6a2e5d3"
    );
    assert_eq!(cleaned, OFFICIAL.replace('，', ","));
}

#[test]
fn long_and_hostile_texts_end() {
    for text in [
        "&amp;".to_owned() + &"amp;".repeat(500),
        "Ã".repeat(5_000),
        "Ã©".repeat(5_000),
        "é” ".repeat(5_000),
        "&#".repeat(10_000),
        "\u{1b}[".repeat(10_000),
        "\u{301}".repeat(10_000),
    ] {
        let cleaned = clean_prompt(&text);
        assert!(cleaned.len() <= 2 * text.len());
    }
    assert_eq!(
        clean_prompt(&("&amp;".to_owned() + &"amp;".repeat(500))),
        "&"
    );
}
