//! The playground's form: pictures, mistakes, a busy node, the keyboard.

use serde_json::{Value, json};

use crate::browser::{Browser, ENTER, TAB, switched_off};
use crate::node::{ENDLESS, Node};
use crate::{clip, describe, job};

#[tokio::test]
async fn a_picture_is_dropped_pasted_and_removed() {
    if switched_off() {
        return;
    }
    let node = Node::start("", None);
    let browser = Browser::start().await;
    browser.go(&node.page("/")).await;
    browser
        .until("document.getElementById('size').value === '832x480' && document.getElementById('model-name').textContent")
        .await;
    browser
        .js("window.give = (kind, holder, width, height) => new Promise((done) => {
               const canvas = Object.assign(document.createElement('canvas'), { width, height });
               canvas.toBlob((blob) => {
                 const transfer = new DataTransfer();
                 transfer.items.add(new File([blob], 'drawn.png', { type: 'image/png' }));
                 const Event = kind === 'drop' ? DragEvent : ClipboardEvent;
                 const event = new Event(kind, { [holder]: transfer, bubbles: true, cancelable: true });
                 document.querySelector('footer').dispatchEvent(event);
                 done(event.defaultPrevented);
               });
             })")
        .await;
    // Anywhere on the page will do, and the page stays.
    let taken = browser.value("give('drop', 'dataTransfer', 48, 64)").await;
    assert_eq!(taken, true);
    browser
        .until("document.querySelector('#drop img')?.naturalHeight === 64")
        .await;
    assert!(browser.text("#image-about").await.contains("48 × 64"));
    let size = browser.value("document.getElementById('size').value").await;
    assert_eq!(size, "480x832", "the size follows the picture");

    browser.choose("#size", "512x288").await;
    browser
        .value("give('paste', 'clipboardData', 32, 96)")
        .await;
    browser
        .until("document.querySelector('#drop img')?.naturalHeight === 96")
        .await;
    assert_eq!(
        browser
            .value("document.querySelectorAll('#drop img').length")
            .await,
        1
    );
    let size = browser.value("document.getElementById('size').value").await;
    assert_eq!(size, "512x288", "a size that was chosen stays");

    browser.click("#image-remove").await;
    let left = browser
        .value("[document.querySelector('#drop img'), document.activeElement.id]")
        .await;
    assert_eq!(left, json!([null, "image"]));

    let words = tempfile::NamedTempFile::with_suffix(".txt").unwrap();
    browser.fill("#image", words.path().to_str().unwrap()).await;
    browser.shown("#field-problem").await;
    assert!(
        browser
            .text("#field-problem")
            .await
            .contains("not a picture")
    );
    let broken = tempfile::NamedTempFile::with_suffix(".png").unwrap();
    std::fs::write(broken.path(), "not a png").unwrap();
    browser
        .fill("#image", broken.path().to_str().unwrap())
        .await;
    browser
        .until("document.getElementById('field-problem')?.textContent.includes('cannot be read')")
        .await;
    assert_eq!(
        browser.value("document.querySelector('#drop img')").await,
        Value::Null
    );
    browser.assert_clean(&[]).await;
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
