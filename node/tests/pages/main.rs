//! The pages in a real browser, over the real program with a scripted engine.
//!
//! Needs chromedriver and Chromium; `LEOMA_TEST_NO_BROWSER=1` leaves these tests out. With
//! `LEOMA_TEST_SCREENSHOTS=DIR` they also write what they saw.
#![cfg(feature = "ffmpeg")]
#![allow(clippy::unwrap_used)]

mod browser;
mod node;
mod reading;

use std::path::{Path, PathBuf};
use std::process::Command;

use browser::{Browser, DESKTOP, ENTER, ESCAPE, PHONE, TAB, switched_off};
use node::{ENDLESS, Node, WATCHABLE};
use serde_json::{Value, json};

const PROMPT: &str = "A small sailing boat drifts across a calm lake at dusk";
/// What a shell, a form and a page could each misread.
const ODD: &str = "@It's a \"lighthouse\": $HOME & <b>away</b> \\ `ls`; 灯台";

/// The folder of the picture that the tests upload, and that the repeated command reads.
fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
}

/// Fills the form in for a clip that is small and has time to be watched.
async fn describe(browser: &Browser, prompt: &str) {
    browser.until("document.getElementById('size').options.length > 2 && document.getElementById('num_frames').value").await;
    let picture = assets().join("demo.png");
    browser.fill("#image", picture.to_str().unwrap()).await;
    browser.fill("#prompt", prompt).await;
    browser.choose("#size", "512x288").await;
    browser.replace("#num_frames", "9").await;
    browser.replace("#num_inference_steps", "20").await;
}

/// Waits for the clip beside the form and that it can be played.
async fn clip(browser: &Browser) {
    browser.shown("#done").await;
    browser
        .until("document.querySelector('#stage video')?.readyState >= 2")
        .await;
    let player = browser.value(
        "(({duration, videoWidth, videoHeight, error}) => [duration > 0, videoWidth, videoHeight, error])(document.querySelector('#stage video'))",
    );
    assert_eq!(player.await, json!([true, 512, 288, null]));
}

/// Name of the job that the page's address tells.
async fn job(browser: &Browser) -> String {
    let hash = browser.value("location.hash").await;
    let id = hash.as_str().unwrap().strip_prefix('#').unwrap().to_owned();
    assert!(id.starts_with("video_"), "{id}");
    id
}

#[tokio::test]
async fn from_a_picture_and_a_prompt_to_a_clip() {
    if switched_off() {
        return;
    }
    let node = Node::start(WATCHABLE, None);
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    browser
        .until("document.getElementById('model-name').textContent")
        .await;
    browser.screenshot("playground-empty").await;
    describe(&browser, PROMPT).await;
    browser
        .until("document.querySelector('#drop img')?.naturalWidth === 832")
        .await;
    assert!(browser.text("#image-about").await.contains("832 × 480"));
    let count = browser.text("#prompt-count").await;
    assert!(
        count.starts_with(&format!("{} /", PROMPT.chars().count())),
        "{count}"
    );

    browser.click("#submit").await;
    browser.shown("#running").await;
    browser
        .until("/step [1-9]\\d* of 20/.test(document.getElementById('now-stage').textContent)")
        .await;
    let bar = "Number(document.getElementById('bar').getAttribute('aria-valuenow'))";
    let before = browser.value(bar).await.as_u64().unwrap();
    assert!(before < 100);
    browser.screenshot("playground-running").await;
    browser
        .until(&format!(
            "{bar} > {before} || !document.getElementById('done').hidden"
        ))
        .await;
    clip(&browser).await;

    // The link gives the file that the node has, under a name that says what it is.
    let id = job(&browser).await;
    let (_, video) = node.get(&format!("/v1/videos/{id}")).await;
    let link = browser.value("document.getElementById('download').download");
    let seed = video["parameters"]["seed"].as_u64().unwrap();
    assert_eq!(
        link.await,
        format!("leoma-a-small-sailing-boat-drifts-across-{seed}.mp4")
    );
    let file = browser.js(
        "return fetch(document.getElementById('download').href).then(async (answer) => {
           const bytes = new Uint8Array(await answer.arrayBuffer());
           return [answer.status, bytes.length, String.fromCharCode(...bytes.slice(4, 8))];
         })",
    );
    assert_eq!(file.await, json!([200, video["bytes"], "ftyp"]));

    // The table has every effective value.
    let rows = browser.value(
        "Object.fromEntries([...document.querySelectorAll('#parameters tr')].map((row) => [...row.cells].map((cell) => cell.textContent)))",
    ).await;
    let parameters = video["parameters"].as_object().unwrap();
    assert!(parameters.len() > 10, "{video}");
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
        let shown = rows[name].as_str().unwrap_or_else(|| panic!("no {name}"));
        match value {
            Value::String(text) => assert_eq!(shown, text, "{name}"),
            Value::Number(number) => assert_eq!(
                shown.parse::<f64>().unwrap(),
                number.as_f64().unwrap(),
                "{name}"
            ),
            other => assert_eq!(shown, other.to_string(), "{name}"),
        }
    }
    assert_eq!(video["parameters"]["prompt"], PROMPT);
    repeats(&browser, &node, &video).await;

    browser.js("scrollTo(0, 0)").await;
    browser.screenshot("playground").await;
    browser.dark(true).await;
    browser.screenshot("playground-dark").await;
    browser.size(PHONE).await;
    browser.screenshot("playground-phone-dark").await;
    browser.dark(false).await;
    browser.screenshot("playground-phone").await;
    browser
        .js("document.getElementById('result-title').scrollIntoView()")
        .await;
    browser.screenshot("playground-phone-result").await;
    browser.assert_fits("the playground").await;
    browser.assert_clean(&[]).await;
}

/// The command that the page shows, run by a shell, makes a job with the same parameters.
async fn repeats(browser: &Browser, node: &Node, video: &Value) {
    let line = browser.text("#curl pre").await;
    assert!(line.contains("input_reference=@demo.png"), "{line}");
    let output = Command::new("sh")
        .args(["-c", &line])
        .current_dir(assets())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{line}\n{output:?}");
    let again: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_ne!(again["id"], video["id"], "{again}");
    assert_eq!(again["parameters"], video["parameters"], "{line}");
    let again = node.ended(again["id"].as_str().unwrap()).await;
    assert_eq!(again["status"], "completed");
    assert_eq!(again["bytes"], video["bytes"]);
}

#[tokio::test]
async fn a_running_job_is_cancelled() {
    if switched_off() {
        return;
    }
    let node = Node::start(ENDLESS, None);
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    describe(&browser, "never ends").await;
    browser.click("#submit").await;
    browser.shown("#running").await;
    let id = job(&browser).await;
    browser
        .until("document.getElementById('now-stage').textContent.startsWith('Making frames')")
        .await;
    browser.click("#cancel").await;
    browser.shown("#failed").await;
    assert_eq!(browser.text("#failed-problem").await, "Cancelled.");
    assert_eq!(browser.text("#result-status").await, "Cancelled");
    let video = node.ended(&id).await;
    assert_eq!(video["error"]["code"], "cancelled", "{video}");
    browser.assert_clean(&[]).await;
}

#[tokio::test]
async fn a_reload_follows_the_job_on() {
    if switched_off() {
        return;
    }
    let node = Node::start("step_s = 0.25\n", None);
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    describe(&browser, ODD).await;
    browser.click("#submit").await;
    browser
        .until("/step \\d+ of 20/.test(document.getElementById('now-stage').textContent)")
        .await;
    let id = job(&browser).await;
    browser.reload().await;
    browser.shown("#running").await;
    browser
        .until("/step \\d+ of 20/.test(document.getElementById('now-stage').textContent)")
        .await;
    assert_eq!(job(&browser).await, id);
    clip(&browser).await;
    let (_, video) = node.get(&format!("/v1/videos/{id}")).await;
    assert_eq!(video["parameters"]["prompt"], ODD);
    repeats(&browser, &node, &video).await;

    // Once it is done, too; and its values can be taken over.
    browser.reload().await;
    clip(&browser).await;
    browser
        .until("document.getElementById('size').options.length > 2")
        .await;
    browser.click("#reuse").await;
    let form = browser
        .value(
            "['prompt', 'size', 'num_frames', 'seed'].map((id) => document.getElementById(id).value)",
        )
        .await;
    let seed = video["parameters"]["seed"].to_string();
    assert_eq!(form, json!([ODD, "512x288", "9", seed]));

    // A job that is gone says so.
    browser
        .go(&node.page("/#video_00000000000000000000000000000000"))
        .await;
    browser.reload().await;
    browser.shown("#failed").await;
    assert!(
        browser
            .text("#failed-problem")
            .await
            .contains("no longer on the node")
    );
    browser.assert_clean(&[404]).await;
}

#[tokio::test]
async fn mistakes_are_named_where_they_are() {
    if switched_off() {
        return;
    }
    let script =
        "[[rule]]\nprompt_contains = \"fails\"\nat = \"denoise\"\nfault = \"nan\"\nfirst = 1\n";
    let node = Node::start(script, None);
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    let focused = "document.activeElement.id";
    browser.click("#submit").await;
    assert_eq!(browser.value(focused).await, "prompt");
    assert!(browser.text("#field-problem").await.contains("sentence"));

    // What only the node knows is shown the same way.
    describe(&browser, "it fails once").await;
    browser.replace("#num_frames", "100000").await;
    browser.click("#submit").await;
    browser
        .until("document.getElementById('num_frames').getAttribute('aria-invalid') === 'true'")
        .await;
    assert_eq!(browser.value(focused).await, "num_frames");
    assert!(browser.text("#field-problem").await.contains("100000"));
    assert_eq!(browser.value("location.hash").await, "");

    // A job that fails says why, and another try may work.
    browser.replace("#num_frames", "9").await;
    browser.click("#submit").await;
    browser.shown("#failed").await;
    assert_eq!(browser.text("#result-status").await, "Failed");
    let video = node.ended(&job(&browser).await).await;
    let said = browser.text("#failed-problem").await;
    for part in ["code", "message"] {
        let part = video["error"][part].as_str().unwrap();
        assert!(said.contains(part), "{said:?} has no {part:?}");
    }
    browser.click("#again").await;
    clip(&browser).await;
    browser.assert_clean(&[400]).await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_try_again() {
    if switched_off() {
        return;
    }
    let node = Node::start_with(ENDLESS, None, &["--max-jobs", "1"]);
    let browser = Browser::start().await;
    node.order("runs").await;
    browser.go(&node.page("/")).await;
    describe(&browser, "one too many").await;
    // The first of these may still find the place that the running job has left.
    for _ in 0..3 {
        browser.click("#submit").await;
        browser
            .until("!document.getElementById('submit').disabled")
            .await;
    }
    browser
        .until("/again in \\d+ s/.test(document.getElementById('form-problem').textContent)")
        .await;
    assert_eq!(
        browser
            .value("document.getElementById('prompt').value")
            .await,
        "one too many"
    );
    browser.assert_clean(&[429]).await;
}

#[tokio::test]
async fn the_keyboard_is_enough() {
    if switched_off() {
        return;
    }
    let node = Node::start(ENDLESS, None);
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    describe(&browser, "").await;
    browser.click("#image-remove").await;
    // A script cannot see a file dialog; that the drop zone asks for one it can.
    browser
        .js("window.asked = 0;
             document.getElementById('image').addEventListener('click', (event) => { window.asked += 1; event.preventDefault(); });
             document.activeElement.blur();
             scrollTo(0, 0);
             getSelection().removeAllRanges();
             document.body.tabIndex = -1;
             document.body.focus();")
        .await;
    let mut order = Vec::new();
    for _ in 0..40 {
        browser.press(TAB).await;
        let (id, outline) = {
            let value = browser
                .value("(() => { const at = document.activeElement; const ringed = at.closest('.drop') ?? at; return [at.id || at.textContent.trim(), getComputedStyle(ringed).outlineStyle]; })()")
                .await;
            (
                value[0].as_str().unwrap().to_owned(),
                value[1].as_str().unwrap().to_owned(),
            )
        };
        assert_eq!(outline, "solid", "{id} shows no focus");
        match id.as_str() {
            "image" => {
                browser.press(" ").await;
                browser.until("window.asked === 1").await;
            }
            "prompt" => browser.press("a kite").await,
            _ => {}
        }
        let last = id == "submit";
        order.push(id);
        if last {
            break;
        }
    }
    let wanted = [
        "Skip to the content",
        "Gallery",
        "image",
        "prompt",
        "size",
        "num_frames",
        "fps",
        "submit",
    ];
    let places: Vec<_> = wanted
        .iter()
        .map(|id| order.iter().position(|seen| seen == id))
        .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{wanted:?} in {order:?}"
    );

    browser.press(ENTER).await;
    browser.shown("#running").await;
    let id = job(&browser).await;
    for _ in 0..10 {
        browser.press(TAB).await;
        if browser.value("document.activeElement.id").await == "cancel" {
            break;
        }
    }
    browser.press(" ").await;
    browser.shown("#failed").await;
    let video = node.ended(&id).await;
    assert_eq!(video["prompt"], "a kite");
    assert_eq!(video["error"]["code"], "cancelled");
    browser.assert_clean(&[]).await;
}

#[tokio::test]
async fn a_node_with_a_key_asks_for_it() {
    if switched_off() {
        return;
    }
    let key = "sesame-open-sesame";
    let node = Node::start(WATCHABLE, Some(key));
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    browser
        .until("document.activeElement.id === 'key' && document.activeElement.type === 'password'")
        .await;
    browser.screenshot("key").await;

    // Left alone, the page says how to come back to the question.
    browser.press(ESCAPE).await;
    browser.shown("#key-button").await;
    browser.click("#key-button").await;
    browser.fill("#key", "wrong").await;
    browser.press(ENTER).await;
    browser
        .until("document.querySelector('dialog[open]')?.textContent.includes('not accepted')")
        .await;
    browser.replace("#key", key).await;
    browser.press(ENTER).await;
    browser
        .until("document.getElementById('model-name').textContent")
        .await;

    describe(&browser, "behind a door").await;
    browser.click("#submit").await;
    clip(&browser).await;
    let source = browser.value("document.querySelector('#stage video').src");
    assert!(source.await.as_str().unwrap().starts_with("blob:"));
    let line = browser.text("#curl pre").await;
    assert!(
        line.contains("Bearer $LEOMA_NODE_API_KEY") && !line.contains(key),
        "{line}"
    );

    browser.go(&node.page("/gallery")).await;
    browser
        .until("document.querySelector('.poster img')?.naturalWidth > 0")
        .await;
    browser.go(&node.page("/docs")).await;
    browser.shown(".operation").await;

    // It lives in this tab's storage and nowhere else.
    let places = browser.value("[JSON.stringify({...localStorage}), document.cookie, location.href, document.body.innerHTML].join()").await;
    assert!(!places.as_str().unwrap().contains(key));
    browser.assert_clean(&[401]).await;
}

#[tokio::test]
async fn the_gallery_plays_cancels_and_deletes() {
    if switched_off() {
        return;
    }
    let script = "[[rule]]\nprompt_contains = \"slow\"\nat = \"denoise\"\nfault = \"slow\"\nfactor = 1000.0\n";
    let node = Node::start(&format!("step_s = 0.02\n{script}"), None);
    let browser = Browser::start().await;
    browser.go(&node.page("/gallery")).await;
    browser.shown("#empty").await;

    // What is ordered elsewhere appears by itself.
    let kite = node.order("a red kite").await;
    browser.shown(&format!("#{kite} button.poster")).await;
    let slow = node.order("a slow snail").await;
    browser.shown(&format!("#{slow} [role=progressbar]")).await;
    let ids = browser.value("[...document.querySelectorAll('.job')].map((card) => card.id)");
    assert_eq!(ids.await, json!([slow, kite]), "the latest is first");
    browser
        .until(&format!(
            "document.querySelector('#{kite} .poster img')?.naturalWidth > 0"
        ))
        .await;
    assert!(
        browser
            .text(&format!("#{kite}"))
            .await
            .contains("a red kite")
    );
    browser.screenshot("gallery").await;

    browser.click(&format!("#{kite} button.poster")).await;
    browser
        .until("document.querySelector('dialog[open] video')?.readyState >= 2")
        .await;
    let width = browser
        .value("document.querySelector('dialog video').videoWidth")
        .await;
    assert_eq!(width, 256);
    browser.screenshot("gallery-play").await;
    browser.press(ESCAPE).await;
    browser.until("!document.querySelector('dialog')").await;
    let back = browser
        .value("[document.activeElement.className, document.activeElement.closest('.job')?.id]");
    assert_eq!(back.await, json!(["poster", kite]));

    browser.click(&format!("#{slow} .danger")).await;
    browser.shown("dialog[open] .danger").await;
    browser.click("dialog .danger").await;
    browser
        .until(&format!(
            "document.querySelector('#{slow} .pill').textContent === 'Cancelled'"
        ))
        .await;
    assert_eq!(node.ended(&slow).await["error"]["code"], "cancelled");

    // Deleting asks first, and the harmless answer is the one at hand.
    browser.click(&format!("#{kite} .danger")).await;
    browser.shown("dialog[open]").await;
    browser.press(ENTER).await;
    browser.until("!document.querySelector('dialog')").await;
    assert_eq!(node.get(&format!("/v1/videos/{kite}")).await.0, 200);
    browser.click(&format!("#{kite} .danger")).await;
    browser.click("dialog .danger").await;
    browser
        .until(&format!("!document.getElementById('{kite}')"))
        .await;
    assert_eq!(node.get(&format!("/v1/videos/{kite}")).await.0, 404);
    browser.assert_clean(&[]).await;
}

#[tokio::test]
async fn every_page_fits_a_phone() {
    if switched_off() {
        return;
    }
    let node = Node::start("", None);
    let long = "a_very_long_word_without_any_place_to_break_it_".repeat(6);
    let id = node.order(&long).await;
    node.ended(&id).await;
    let browser = Browser::start().await;
    for size in [PHONE, [360, 740]] {
        browser.size(size).await;
        for (page, ready) in [
            (format!("/#{id}"), "#done"),
            ("/gallery".into(), "button.poster"),
            ("/status".into(), "#model tr"),
            ("/docs".into(), ".operation"),
        ] {
            browser.go(&node.page(&page)).await;
            browser.shown(ready).await;
            for _ in 0..4 {
                // What is inside a fold is made when it opens.
                browser.js("for (const fold of document.querySelectorAll('details')) fold.open = true; return new Promise((done) => setTimeout(done, 50))").await;
            }
            browser.assert_fits(&format!("{page} at {size:?}")).await;
            let small = browser.value(
                "[...document.querySelectorAll('main button, .top a, .top button, main input:not([type=checkbox], .unseen), select, summary')]
                 .filter((element) => element.offsetParent && element.getBoundingClientRect().height < 34).map((element) => element.outerHTML)",
            );
            assert_eq!(small.await, json!([]), "too small for a thumb on {page}");
        }
    }
    browser.size(PHONE).await;
    for page in ["gallery", "status", "docs"] {
        browser.go(&node.page(&format!("/{page}"))).await;
        browser
            .until("document.getElementById('model-name').textContent")
            .await;
        browser.screenshot(&format!("{page}-phone")).await;
    }
    browser.size(DESKTOP).await;
    browser.assert_clean(&[]).await;
}
