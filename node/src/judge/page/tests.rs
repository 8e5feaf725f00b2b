#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::judge::profile::Profile;
use crate::judge::rubric::{Dimension, Scores};
use crate::judge::sampling::FrameRule;
use crate::judge::side::{Decision, Mode};
use crate::judge::verdict::{Reason, Verdict};
use crate::media::RgbImage8;

/// Text that would be markup, an address or a turned line if it were let through.
const HOSTILE: &str = "</p><script src=\"https://evil.example/x.js\">a()</script>\u{202e}<img src=x onerror=a()>&amp;";

fn frame(level: u8) -> RgbImage8 {
    RgbImage8::new(64, 48, vec![level; 64 * 48 * 3]).unwrap()
}

fn input(prompt: &str) -> JudgeInput {
    let frames = (0..81).map(|n| frame(n * 3)).collect();
    let mut input = JudgeInput::new(
        "5e".repeat(32),
        (frames, (16, 1)),
        (frame(9), vec![1, 2, 3]),
        prompt.into(),
        None,
    )
    .unwrap();
    input.task_id = Some(format!("17{HOSTILE}"));
    input
}

fn configuration(model: &str) -> Configuration {
    Configuration::remote(
        Profile::Subnet,
        model,
        Rules::default(),
        FrameRule::default(),
    )
}

fn shadow() -> (Configuration, Configuration, Judgement) {
    let (remote, local) = (configuration("gpt-4o"), configuration("qwen<b>"));
    let mut said = Verdict::of_scores("remote", &remote, Scores::new([90, 41, 75, 80, 70, 60]));
    said.issues = vec![HOSTILE.into()];
    said.strengths = vec!["a steady camera".into()];
    said.reasoning = HOSTILE.into();
    said.usage.requests = 1;
    let mut answer = Answer {
        model: Some(HOSTILE.into()),
        ..Answer::default()
    };
    answer.keep(HOSTILE);
    said.answers = vec![answer];
    let mut other = Verdict::of_scores("qwen3-vl", &local, Scores::new([70; 6]));
    other.unjudged = vec![Dimension::CameraComposition];
    other.text_in_frames = Some(true);
    other.details = json!({
        "limits_version": 1, "signals": {"scene": 0.71, HOSTILE: 1.0}, "camera": "static",
        "gates": {"G_cut": format!("Two neighbouring frames differ as at a cut {HOSTILE}."), "G_overlay": "Writing."},
        "statement": HOSTILE, "signals_millis": 3, "more": HOSTILE,
        "embeddings": {
            "values": {"dino_first": 0.93, HOSTILE: 1.0}, "weights_sha256": {HOSTILE: HOSTILE}, "indices": [0, 40, 80],
            "dropped_tokens": 2,
        },
    });
    let judgement = Judgement {
        mode: Mode::Shadow,
        remote: Some(said.into()),
        local: Some(other.into()),
        decision: Decision {
            pass: Some(false),
            by: Some(side::Side::Remote),
            why: format!("remote: overall 70 {HOSTILE}"),
        },
    };
    (remote, local, judgement)
}

#[test]
fn every_part_is_there() {
    let (remote, local, judgement) = shadow();
    let page = page(
        &input("a boat drifts"),
        &judgement,
        &[&remote, &local],
        Some("abc0"),
    );
    for part in [
        "<strong>The clip fails.</strong> Remote: overall 70",
        "Mode shadow: both judges are asked, the remote one decides",
        "The remote judge decided.",
        "By the remote judge, the overall score is 70 and 75 is needed.",
        "By the remote judge, prompt adherence is 41 and 50 is needed.",
        "By the local judge, the overall score is 70 and 75 is needed.",
        "<p class=\"said\">a boat drifts</p>",
        "first frame fidelity <span class=\"severity\">critical</span></th><td class=\"number\">0.25</td>",
        "<td class=\"note\">not judged</td>",
        "a steady camera",
        "It sees writing in the frames.",
        "alt=\"the given first frame\"",
        "alt=\"frame 0 of the clip\"",
        "What the remote judge saw",
        "12 frames of 81. Frame 0 is not among them. The last 19 frames, 1.19 s, are never shown.",
        "alt=\"frame 61 of the clip\"",
        "<p>2 gates closed.</p>",
        "temporal consistency keeps at most 45.",
        "It lowers no score and asks for a second look.",
        "<td><code>scene</code></td><td class=\"number\">0.7100</td>",
        "CLIP and DINOv2, in 3 frames",
        "<td><code>dino_first</code></td><td class=\"number\">0.9300</td>",
        "CLIP had no room for the last 2 tokens of the prompt.",
        "mean brightness",
        "mean change from the frame before",
        "<summary>The remote judge, answer 1</summary>",
        "<summary>The local judge, its record</summary>",
        "configuration of gpt-4o",
        &remote.sha256(),
        &local.sha256(),
        &"5e".repeat(32),
        "<dt>evidence</dt><dd><code>abc0</code></dd>",
        "1 request, 0 + 0 tokens, dollars not known",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    // The two first frames and twelve that were shown.
    assert_eq!(page.matches("src=\"data:image/jpeg;base64,").count(), 14);
    assert!(!page.contains("alt=\"frame 62 of the clip\""));
    let is_open = |tag: &str| {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        page.matches(&open).count() - page.matches(&close).count()
    };
    for tag in ["section", "table", "details", "figure", "ul", "svg", "pre"] {
        assert_eq!(is_open(tag), 0, "{tag}");
    }
}

#[test]
fn what_others_wrote_stays_text_and_nothing_is_loaded() {
    let (remote, local, judgement) = shadow();
    let page = page(&input(HOSTILE), &judgement, &[&remote, &local], None);
    assert!(!page.contains("<script") && !page.contains("<img src=x"));
    assert!(!page.contains("\u{202e}") && !page.contains("qwen<b>"));
    assert!(page.contains("qwen&lt;b&gt;"));
    // Everywhere where it was put: as text.
    assert!(page.matches("&lt;script src=").count() >= 10);
    assert!(page.contains("default-src 'none'; img-src data:; style-src 'unsafe-inline'"));
    for loads in ["src=\"http", "href=", "url(", "@import", "srcset"] {
        assert!(!page.contains(loads), "{loads}");
    }
    // What is left of addresses is the text of others.
    let addresses = page.matches("https://").count();
    assert_eq!(addresses, page.matches("https://evil.example/x.js").count());
    assert!(!page.contains("http://"));
}

#[test]
fn no_verdict_says_whose_fault_it_is() {
    let configuration = configuration("gpt-4o");
    let none = NoVerdict::new("remote", Reason::Key, Fault::Local, "no key; give one");
    let judgement = Judgement {
        mode: Mode::Remote,
        remote: Some(none.clone().into()),
        local: None,
        decision: Decision {
            pass: None,
            by: None,
            why: "remote: key: no key; give one".into(),
        },
    };
    let page = page(&input("p"), &judgement, &[&configuration], None);
    for part in [
        "There is no verdict on this clip.",
        "Nobody decided.",
        "gave no verdict (<code>key</code>). No key; give one.",
        "(<code>local</code>)",
        "What the remote judge would have seen",
        "No signals were measured",
        "The remote judge left none.",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    let none = NoVerdict::new(
        "input",
        Reason::Input,
        Fault::Artifact,
        format!("video: has no frames {HOSTILE}"),
    );
    let page = nothing(&none);
    assert!(page.contains("Video: has no frames") && page.contains("that of the clip"));
    assert!(!page.contains("<script") && !page.contains("img-src"));
}
