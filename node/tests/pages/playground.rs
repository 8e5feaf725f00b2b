//! The playground's result: progress, the clip, its parameters, the command, cancelling, reloading.

use std::process::Command;

use serde_json::{Value, json};

use crate::browser::{Browser, PHONE, switched_off};
use crate::node::{ENDLESS, Node, WATCHABLE};
use crate::{assets, clip, describe, job};

const PROMPT: &str = "A small sailing boat drifts across a calm lake at dusk";
/// What a shell, a form and a page could each misread.
const ODD: &str = "@It's a \"lighthouse\": $HOME & <b>away</b> \\ `ls`; 灯台";

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
    browser.click("#curl button").await;
    browser
        .until("document.querySelector('#curl button').textContent === 'Copied'")
        .await;

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
